-- needs: deadline version
-- Delete a target, or go on with deleting it: tell which schedules are still to go, and forget it when none is left.
--
-- Guarantee: from the first call on no schedule can be reserved for the target or committed to it, so the set of its
-- schedules only shrinks; called until it answers 'done', none is left. A caller that dies in between leaves the target
-- among those that are being deleted, where a sweeper finds it. The first write frees memory, so that a full Redis lets
-- the script finish.
--
-- KEYS
--   1 targets   hash, target id to definition
--   2 ids       sorted set, target id at its own number
--   3 names     hash, name to `id token`
--   4 deleting  hash, target id to epoch ms since when it is being deleted
--   5 meta      hash, with the version of the targets
--   6 schedules set, ids of the target's schedules
-- ARGV
--   1 id
--   2 name  of the target as read; empty: it is not stored any more
--   3 now   epoch ms
--   4 limit count of schedules to tell
--   last      deadline (lib/deadline.lua)
-- Returns
--   'gone' if there is no such target, 'changed' if its name is another one, 'done' when nothing of it is left, else
--   {schedule id, ...}, at most `limit`
-- Cost: O(limit + log(targets)); three to nine commands.

local targets, ids, names, deleting, meta, schedules = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, name, now, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if redis.call('HEXISTS', targets, id) == 1 then
  -- Without a name it is one that cannot be read, and that no name leads to.
  if name ~= '' then
    local owner = redis.call('HGET', names, name)
    if not owner or string.match(owner, '^%S+') ~= id then return 'changed' end
    redis.call('HDEL', names, name)
  end
  redis.call('HDEL', targets, id)
  redis.call('ZREM', ids, id)
  redis.call('HSET', deleting, id, now)
  raise_targets_version(meta)
elseif redis.call('HEXISTS', deleting, id) == 0 then
  return 'gone'
end
local left = redis.call('SRANDMEMBER', schedules, limit)
if #left == 0 then
  redis.call('HDEL', deleting, id)
  return 'done'
end
return left
