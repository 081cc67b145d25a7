-- needs: deadline
-- Take a schedule out of the catalogue: the last step of deleting it, after its job is gone.
--
-- Guarantee: its name is free afterwards, unless it belongs to another schedule by now. Only frees memory. Sent again, it
-- changes nothing.
--
-- KEYS
--   1 schedules hash, schedule id to `target_id name`
--   2 names     hash, name to `id token`
--   3 reserved  sorted set, schedule id by time of reservation
--   4 ids       sorted set, schedule id at its own number: those that are committed
--   5 ends      sorted set, the same by their end
--   6 paused    sorted set, the paused ones by their end
--   7 of target set, ids of the schedules of its target
-- ARGV
--   1 id
--   2 expected  row as read; empty: it has none
--   last      deadline (lib/deadline.lua)
-- Returns
--   'ok', or 'changed' if the row is not what the caller read
-- Cost: O(log(schedules)); nine commands.

local schedules, names, reserved, ids, ends, paused, of_target =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local id, expected = ARGV[1], ARGV[2]

local row = redis.call('HGET', schedules, id)
if row then
  if row ~= expected then return 'changed' end
  local name = string.match(row, '^%S+ (.*)$')
  local owner = name and redis.call('HGET', names, name)
  if owner and string.match(owner, '^%S+') == id then redis.call('HDEL', names, name) end
  redis.call('HDEL', schedules, id)
end
redis.call('SREM', of_target, id)
redis.call('ZREM', reserved, id)
redis.call('ZREM', ids, id)
redis.call('ZREM', ends, id)
redis.call('ZREM', paused, id)
return 'ok'
