-- needs: deadline
-- Reserve the name of a new schedule and give it an id: the first of three steps (reserve, write the job, commit).
--
-- Guarantee: a name belongs to one schedule, and an id is never used twice. A reservation that was not committed within
-- `patience` loses its name to a new one (its creator died, or received a fault and repeats the request) and can then
-- not be committed; its creator or a sweeper removes its other entries. Sent again with the same token, it changes
-- nothing and answers with the same id.
--
-- KEYS
--   1 targets         hash: target id -> definition
--   2 schedules       hash: schedule id -> `target_id name`
--   3 schedule_names  hash: name -> `id token`
--   4 reserved        sorted set: schedule id -> instant of its reservation (epoch ms)
--   5 counters        hash: the latest ids
--   6 of_target       set: ids of the target's schedules
-- ARGV
--   1 name         text
--   2 token        text: drawn by the caller for this one creation
--   3 target_id    text
--   4 now          epoch ms
--   5 patience     ms
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   the id, 'taken', or 'no target'
-- Cost: O(log(reserved)); seven or eight commands.

local targets, schedules, schedule_names = KEYS[1], KEYS[2], KEYS[3]
local reserved, counters, of_target = KEYS[4], KEYS[5], KEYS[6]
local name, token, target, now, patience = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local owner = redis.call('HGET', schedule_names, name)
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
  -- The counter holds no number. The time in milliseconds is above every id that was used.
  number = tonumber(redis.call('TIME')[1]) * 1000
  redis.call('HSET', counters, 'schedule', string.format('%.0f', number))
end
local id = string.format('%.0f', number)
redis.call('HSET', schedules, id, target .. ' ' .. name)
redis.call('ZADD', reserved, string.format('%.0f', now), id)
redis.call('SADD', of_target, id)
redis.call('HSET', schedule_names, name, id .. ' ' .. token)
return id
