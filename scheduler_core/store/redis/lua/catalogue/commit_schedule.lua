-- needs: deadline
-- Store the end of a schedule and whether it is paused, as its job has them. Turns a reserved schedule into a listed
-- one.
--
-- Guarantee: nothing is written for a schedule that is not in the catalogue, whose target is gone, or whose name
-- belongs to another schedule by now. The caller then deletes the job. Sent again, it changes nothing.
--
-- KEYS
--   1 targets         hash: target id -> definition
--   2 schedules       hash: schedule id -> `target_id name`
--   3 reserved        sorted set: schedule id -> instant of its reservation (epoch ms)
--   4 schedule_ids    sorted set: id of a committed schedule -> itself
--   5 ends            sorted set: schedule id -> its end
--   6 paused          sorted set: id of a paused schedule -> its end
--   7 schedule_names  hash: name -> `id token`
-- ARGV
--   1 schedule_id  text
--   2 end          score: epoch ms, or '+inf'
--   3 paused       0 or 1
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   `target_id name` as the catalogue has it, or false if the schedule, its name or its target is gone
-- Cost: O(log(schedules)); seven commands.

local targets, schedules, reserved, schedule_ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ends, paused, schedule_names = KEYS[5], KEYS[6], KEYS[7]
local id, last, is_paused = ARGV[1], ARGV[2], ARGV[3]

local row = redis.call('HGET', schedules, id)
if not row then return false end
local target, name = string.match(row, '^(%d+) (.*)$')
if not target then return false end
local owner = redis.call('HGET', schedule_names, name)
if owner and not string.match(owner, '^%d+ ') then -- its owner cannot be read
  owner = id .. ' -'
  redis.call('HSET', schedule_names, name, owner)
end
if not owner or string.match(owner, '^%S+') ~= id or redis.call('HEXISTS', targets, target) == 0 then return false end
redis.call('ZADD', schedule_ids, id, id)
redis.call('ZADD', ends, last, id)
if is_paused == '1' then
  redis.call('ZADD', paused, last, id)
else
  redis.call('ZREM', paused, id)
end
redis.call('ZREM', reserved, id)
return row
