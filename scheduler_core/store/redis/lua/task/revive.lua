-- needs: deadline
-- Make a stale task due again, among those that have failed.
--
-- Guarantee: nothing is written unless the task is stale and its document is the one that the caller read. The first
-- write needs memory, so that a full Redis refuses it as a whole.
--
-- KEYS
--   1 failed  sorted set: task that has failed -> instant of its execution (epoch ms)
--   2 tasks   hash: task -> document
--   3 stale   sorted set: task -> instant (epoch ms) at which it was settled
--   4 dismissed  sorted set: stale task -> instant (epoch ms) at which it was dismissed
-- ARGV
--   1 task         text
--   2 expected     bytes: its document as the caller read it
--   3 document     bytes: to store
--   4 execute_at   epoch ms
--   5 channel      text: where nodes listen for changes of one-off tasks
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', 'not_stale', 'changed' or 'missing'
-- Cost: O(log(tasks)).

local failed, tasks, stale, dismissed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member, expected, new, at, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local document = redis.call('HGET', tasks, member)
if not document then return 'missing' end
if not redis.call('ZSCORE', stale, member) then return 'not_stale' end
if document ~= expected then return 'changed' end
redis.call('HSET', tasks, member, new)
redis.call('ZREM', stale, member)
redis.call('ZREM', dismissed, member)
redis.call('ZADD', failed, at, member)
redis.call('PUBLISH', channel, at)
return 'ok'
