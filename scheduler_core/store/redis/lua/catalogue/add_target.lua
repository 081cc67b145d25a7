-- needs: deadline
-- Store a new target under the next id, unless its name is taken.
--
-- Guarantee: a name belongs to one target, and an id is never used twice. Sent again with the same token (its reply was
-- lost), it changes nothing and answers with the same id.
--
-- KEYS
--   1 targets       hash: target id -> definition
--   2 target_ids    sorted set: target id -> itself
--   3 target_names  hash: name -> `id token`
--   4 counters      hash: the latest ids
-- ARGV
--   1 name         text
--   2 token        text: drawn by the caller for this one creation
--   3 definition   bytes
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   the id, or 'taken'
-- Cost: O(log(targets)); five commands.

local targets, target_ids, target_names, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, token, definition = ARGV[1], ARGV[2], ARGV[3]

-- An owner that cannot be read counts as none.
local id, mark = string.match(redis.call('HGET', target_names, name) or '', '^(%d+) (%S+)$')
if id then
  if mark == token then return id end
  return 'taken'
end
local number = redis.pcall('HINCRBY', counters, 'target', 1)
if type(number) ~= 'number' or number < 1 or number >= 1e15 then
  -- The counter holds no number. The time in milliseconds is above every id that was used.
  number = tonumber(redis.call('TIME')[1]) * 1000
  redis.call('HSET', counters, 'target', string.format('%.0f', number))
end
id = string.format('%.0f', number)
redis.call('HSET', targets, id, definition)
redis.call('ZADD', target_ids, id, id)
redis.call('HSET', target_names, name, id .. ' ' .. token)
return id
