-- needs: deadline
-- Reserve the name of a new schedule and give it an id: the first of three steps (reserve, write the job, commit).
--
-- Guarantee: a name belongs to one schedule, and an id is never given twice. A reservation that was not committed in
-- `patience` loses its name to a new one (its creator died, or was told of a fault and asks again) and can then not be
-- committed; what else there is of it is left to its creator or a sweeper. Sent again with the same token, it changes nothing and answers the same id.
--
-- KEYS
--   1 targets   hash, target id to definition
--   2 schedules hash, schedule id to `target_id name`
--   3 names     hash, name to `id token`
--   4 reserved  sorted set, schedule id by time of reservation
--   5 of target set, ids of the target's schedules
--   6 counters  hash, the latest ids given
-- ARGV
--   1 name
--   2 token     drawn by the caller for this one creation
--   3 target id
--   4 now       epoch ms
--   5 patience  ms
--   last      deadline (lib/deadline.lua)
-- Returns
--   the id, 'taken', or 'no target'
-- Cost: O(log(reserved)); seven or eight commands.

local targets, schedules, names, reserved, of_target, counters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local name, token, target, now, patience = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local owner = redis.call('HGET', names, name)
local old
if owner then
  local mark
  old, mark = string.match(owner, '^(%d+) (%S+)$')
  if mark == token then return old end
end
if redis.call('HEXISTS', targets, target) == 0 then return 'no target' end
if old then
  local since = redis.call('ZSCORE', reserved, old)
  if not since or tonumber(since) > now - patience then return 'taken' end
end

local number = redis.pcall('HINCRBY', counters, 'schedule', 1)
if type(number) ~= 'number' or number < 1 or number >= 1e15 then
  -- Something else stands there. The time in milliseconds is above every number that was given.
  number = tonumber(redis.call('TIME')[1]) * 1000
  redis.call('HSET', counters, 'schedule', string.format('%.0f', number))
end
local id = string.format('%.0f', number)
redis.call('HSET', schedules, id, target .. ' ' .. name)
redis.call('ZADD', reserved, string.format('%.0f', now), id)
redis.call('SADD', of_target, id)
redis.call('HSET', names, name, id .. ' ' .. token)
return id
