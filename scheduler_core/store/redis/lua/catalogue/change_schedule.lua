-- needs: deadline
-- Give a schedule another name or another target. Its job is changed afterwards.
--
-- Guarantee: nothing is written unless the row is the one that the caller read, the name is free and the target exists.
-- Sent again, it finds what it wrote and changes nothing.
--
-- KEYS
--   1 targets         hash: target id -> definition
--   2 schedules       hash: schedule id -> `target_id name`
--   3 schedule_names  hash: name -> `id token`
--   4 of_old_target   set: ids of the schedules of its present target
--   5 of_new_target   set: ids of the schedules of its new target
-- ARGV
--   1 schedule_id  text
--   2 expected     bytes: row as read
--   3 target_id    text: new one
--   4 name         text: new one
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', 'gone', 'taken', 'no target', or 'changed' if the row is not what the caller read
-- Cost: O(1); four to ten commands.

local targets, schedules, schedule_names = KEYS[1], KEYS[2], KEYS[3]
local of_old_target, of_new_target = KEYS[4], KEYS[5]
local id, expected, target, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local row = redis.call('HGET', schedules, id)
local wanted = target .. ' ' .. name
if not row then return 'gone' end
if row == wanted then return 'ok' end
if row ~= expected then return 'changed' end
if redis.call('HEXISTS', targets, target) == 0 then return 'no target' end
local old_target, old_name = string.match(row, '^(%d+) (.+)$')
if name ~= old_name then
  local taken_by = string.match(redis.call('HGET', schedule_names, name) or '', '^%d+')
  if taken_by and taken_by ~= id then return 'taken' end
  if old_name then -- nil: the row cannot be read, and is replaced
    local owner = redis.call('HGET', schedule_names, old_name)
    if not owner or string.match(owner, '^%S+') ~= id then return 'gone' end -- a reservation that lost its name
    redis.call('HDEL', schedule_names, old_name)
  end
  redis.call('HSET', schedule_names, name, id .. ' -')
end
if target ~= old_target then
  redis.call('SADD', of_new_target, id)
  redis.call('SREM', of_old_target, id)
end
redis.call('HSET', schedules, id, wanted)
return 'ok'
