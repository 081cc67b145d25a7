-- needs: deadline version
-- Delete a target, or continue its deletion: return the schedules to delete first, and remove the target when none is
-- left.
--
-- Guarantee: a target that a job uses is not deleted. From the first call on no schedule can be reserved for the target or committed to it, so the set of its
-- schedules only shrinks; after the answer 'done', none is left. If the caller dies in between, the target stays in
-- `deleting`, where a sweeper finds it. The first write frees memory, so that a full Redis accepts it.
--
-- KEYS
--   1 targets       hash: target id -> definition
--   2 target_ids    sorted set: target id -> itself
--   3 target_names  hash: name -> `id token`
--   4 deleting      hash: target id -> epoch ms since when it is being deleted
--   5 meta          hash: version of the targets
--   6 of_target     set: ids of the target's schedules
--   7 jobs_of       sorted set: note of a job that uses the target -> when it was made (epoch ms)
-- ARGV
--   1 target_id    text
--   2 name         text: of the target as read; empty: it is no longer stored
--   3 now          epoch ms
--   4 limit        count: schedules to return
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   'gone' if the target does not exist, 'changed' if it has another name, 'used' if a job has a note, 'done' if it was
--   removed, else {schedule id, ...}, at most `limit`
-- Cost: O(limit + log(targets)); three to ten commands.

local targets, target_ids, target_names, deleting, meta, of_target = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local jobs_of = KEYS[7]
local id, name, now, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if redis.call('HEXISTS', targets, id) == 1 then
  if redis.call('ZCARD', jobs_of) > 0 then return 'used' end
  -- An empty name: the target cannot be read, and no name belongs to it.
  if name ~= '' then
    local owner = redis.call('HGET', target_names, name)
    if not owner or string.match(owner, '^%S+') ~= id then return 'changed' end
    redis.call('HDEL', target_names, name)
  end
  redis.call('HDEL', targets, id)
  redis.call('ZREM', target_ids, id)
  redis.call('HSET', deleting, id, now)
  raise_targets_version(meta)
elseif redis.call('HEXISTS', deleting, id) == 0 then
  return 'gone'
end
local left = redis.call('SRANDMEMBER', of_target, limit)
if #left == 0 then
  redis.call('HDEL', deleting, id)
  return 'done'
end
return left
