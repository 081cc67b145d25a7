-- needs: deadline
-- Dismiss a stale task: it stays stale, and needs no person any more.
--
-- Guarantee: nothing is written unless the task is stale and its document is the one that the caller read. The write
-- needs memory, so that a full Redis refuses it.
--
-- KEYS
--   1 tasks      hash: task -> document
--   2 stale      sorted set: task -> instant (epoch ms) at which it was settled
--   3 dismissed  sorted set: stale task -> instant (epoch ms) at which it was dismissed
-- ARGV
--   1 task         text
--   2 expected     bytes: its document as the caller read it
--   3 now          epoch ms
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', 'not_stale', 'changed', 'missing', or 'done' if it was dismissed before
-- Cost: O(log(tasks)).

local tasks, stale, dismissed = KEYS[1], KEYS[2], KEYS[3]
local member, expected, now = ARGV[1], ARGV[2], ARGV[3]

local document = redis.call('HGET', tasks, member)
if not document then return 'missing' end
if not redis.call('ZSCORE', stale, member) then return 'not_stale' end
if document ~= expected then return 'changed' end
return redis.call('ZADD', dismissed, 'NX', now, member) == 1 and 'ok' or 'done'
