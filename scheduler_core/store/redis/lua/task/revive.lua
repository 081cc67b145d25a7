-- needs: deadline
-- Make a stale task due again, among those that have failed.
--
-- Guarantee: nothing is written unless the task is stale and its document is the one that the caller saw. The first
-- write needs memory, so that a full Redis refuses it as a whole.
--
-- KEYS
--   1 failed   sorted set, tasks that have failed, by the instant of their execution
--   2 tasks    hash, task to document
--   3 stale    sorted set, task by the instant at which it was settled
-- ARGV
--   1 task
--   2 document  as the caller saw it
--   3 new       document to store
--   4 at        epoch ms, the instant of its execution
--   5 channel   where nodes listen for what changes in the lane
--   last      deadline (lib/deadline.lua)
-- Returns
--   'ok', 'not_stale', 'changed' or 'missing'
-- Cost: O(log(tasks)).

local failed, tasks, stale = KEYS[1], KEYS[2], KEYS[3]
local member = ARGV[1]

local document = redis.call('HGET', tasks, member)
if not document then return 'missing' end
if not redis.call('ZSCORE', stale, member) then return 'not_stale' end
if document ~= ARGV[2] then return 'changed' end
redis.call('HSET', tasks, member, ARGV[3])
redis.call('ZREM', stale, member)
redis.call('ZADD', failed, ARGV[4], member)
redis.call('PUBLISH', ARGV[5], ARGV[4])
return 'ok'
