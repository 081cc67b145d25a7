-- needs: deadline
-- Store a new target under the next id, unless its name is taken.
--
-- Guarantee: a name belongs to one target, and an id is never given twice. Sent again with the same token (its reply was
-- lost), it changes nothing and answers the same id.
--
-- KEYS
--   1 targets  hash, target id to definition
--   2 ids      sorted set, target id at its own number
--   3 names    hash, name to `id token`
--   4 counters hash, the latest ids given
-- ARGV
--   1 name
--   2 token       drawn by the caller for this one creation
--   3 definition
--   last      deadline (lib/deadline.lua)
-- Returns
--   the id, or 'taken'
-- Cost: O(log(targets)); five commands.

local targets, ids, names, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, token, definition = ARGV[1], ARGV[2], ARGV[3]

-- An owner that cannot be read owns nothing.
local id, mark = string.match(redis.call('HGET', names, name) or '', '^(%d+) (%S+)$')
if id then
  if mark == token then return id end
  return 'taken'
end
local number = redis.pcall('HINCRBY', counters, 'target', 1)
if type(number) ~= 'number' or number < 1 or number >= 1e15 then
  -- Something else stands there. The time in milliseconds is above every number that was given.
  number = tonumber(redis.call('TIME')[1]) * 1000
  redis.call('HSET', counters, 'target', string.format('%.0f', number))
end
id = string.format('%.0f', number)
redis.call('HSET', targets, id, definition)
redis.call('ZADD', ids, id, id)
redis.call('HSET', names, name, id .. ' ' .. token)
return id
