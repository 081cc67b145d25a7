-- needs: deadline
-- Say where a schedule stands, as its job has it: listed, its end, whether it is paused. Makes a reserved one a real one.
--
-- Guarantee: nothing is written for a schedule that is not in the catalogue, whose target is gone or whose name belongs
-- to another by now; whoever wrote its job then takes it away again. Sent again, it changes nothing.
--
-- KEYS
--   1 targets   hash, target id to definition
--   2 schedules hash, schedule id to `target_id name`
--   3 reserved  sorted set, schedule id by time of reservation
--   4 ids       sorted set, schedule id at its own number: those that are committed
--   5 ends      sorted set, the same by their end
--   6 paused    sorted set, the paused ones by their end
--   7 names     hash, name to `id token`
-- ARGV
--   1 id
--   2 end    epoch ms, or '+inf'
--   3 paused '1' or '0'
--   last      deadline (lib/deadline.lua)
-- Returns
--   `target_id name` as the catalogue has it, or false if the schedule, its name or its target is gone
-- Cost: O(log(schedules)); seven commands.

local targets, schedules, reserved, ids, ends, paused, names =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local id, last, is_paused = ARGV[1], ARGV[2], ARGV[3]

local row = redis.call('HGET', schedules, id)
if not row then return false end
local target, name = string.match(row, '^(%d+) (.*)$')
if not target then return false end
local owner = redis.call('HGET', names, name)
if owner and not string.match(owner, '^%d+ ') then -- what stands there is no owner
  owner = id .. ' -'
  redis.call('HSET', names, name, owner)
end
if not owner or string.match(owner, '^%S+') ~= id or redis.call('HEXISTS', targets, target) == 0 then return false end
redis.call('ZADD', ids, id, id)
redis.call('ZADD', ends, last, id)
if is_paused == '1' then
  redis.call('ZADD', paused, last, id)
else
  redis.call('ZREM', paused, id)
end
redis.call('ZREM', reserved, id)
return row
