-- needs: deadline
-- Remove a schedule from the catalogue: the last step of deleting it, after its job is gone.
--
-- Guarantee: its name is free afterwards, unless it belongs to another schedule by now. Only frees memory. Sent again,
-- it changes nothing.
--
-- KEYS
--   1 schedules       hash: schedule id -> `target_id name`
--   2 schedule_names  hash: name -> `id token`
--   3 reserved        sorted set: schedule id -> instant of its reservation (epoch ms)
--   4 schedule_ids    sorted set: id of a committed schedule -> itself
--   5 ends            sorted set: schedule id -> its end
--   6 paused          sorted set: id of a paused schedule -> its end
--   7 of_target       set: ids of the schedules of its target
-- ARGV
--   1 schedule_id  text
--   2 expected     bytes: row as read; empty: it has none
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', or 'changed' if the row is not what the caller read
-- Cost: O(log(schedules)); nine commands.

local schedules, schedule_names, reserved, schedule_ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ends, paused, of_target = KEYS[5], KEYS[6], KEYS[7]
local id, expected = ARGV[1], ARGV[2]

local row = redis.call('HGET', schedules, id)
if row then
  if row ~= expected then return 'changed' end
  local name = string.match(row, '^%S+ (.*)$')
  local owner = name and redis.call('HGET', schedule_names, name)
  if owner and string.match(owner, '^%S+') == id then redis.call('HDEL', schedule_names, name) end
  redis.call('HDEL', schedules, id)
end
redis.call('SREM', of_target, id)
redis.call('ZREM', reserved, id)
redis.call('ZREM', schedule_ids, id)
redis.call('ZREM', ends, id)
redis.call('ZREM', paused, id)
return 'ok'
