-- needs: deadline record
-- Delete a one-off task. One that is being called stays in its batch, and is not called again.
--
-- Guarantee: nothing is written unless the document is the one that the caller read. The first write frees memory.
--
-- KEYS
--   1 fresh      sorted set: task that never failed -> instant of its execution (epoch ms)
--   2 failed     sorted set: likewise, tasks that did
--   3 running    sorted set: the tasks of the batch that is out
--   4 tasks      hash: task -> document
--   5 delivered  sorted set: task -> instant (epoch ms) at which it was settled
--   6 stale      sorted set: likewise
--   7 to 14      keys of lib/record.lua
--   15 dismissed  sorted set: stale task -> instant (epoch ms) at which it was dismissed
--   then for the task
--   * history    list
--   * failures   list
-- ARGV
--   1 history_kept   count: entries kept in the task's history
--   2 failures_kept  count: entries kept of those that left it and did not succeed
--   3 retention      ms: after the last entry, until both lists expire
--   then for the task
--   * task           text
--   * expected       bytes: its document as the caller read it
--   * n              count: records that follow (0 or 1), six arguments each (lib/record.lua); written if the task
--                    waited for another call
--   last deadline    epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', 'running' (a call may be in flight), 'changed', or 'missing'
-- Cost: O(log(tasks)).

local fresh, failed, running, tasks, delivered, stale = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local dismissed = KEYS[15]
local member, expected = ARGV[4], ARGV[5]
local book = open_book(7, tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3])

local document = redis.call('HGET', tasks, member)
if not document then return 'missing' end
if document ~= expected then return 'changed' end
redis.call('HDEL', tasks, member)
if redis.call('ZSCORE', running, member) then return 'running' end
if redis.call('ZREM', failed, member) == 1 then
  book.add(KEYS[16], KEYS[17], ARGV, 7, tonumber(ARGV[6]))
  book.flush()
end
redis.call('ZREM', fresh, member)
redis.call('ZREM', delivered, member)
redis.call('ZREM', stale, member)
redis.call('ZREM', dismissed, member)
return 'ok'
