-- needs: deadline record
-- Delete a one-off task. One that is being called is left in its batch, and is not called again.
--
-- Guarantee: nothing is written unless the document is the one that the caller saw. The first write frees memory.
--
-- KEYS
--   1 fresh     sorted set, tasks that never failed, by the instant of their execution
--   2 failed    sorted set, likewise, those that did
--   3 running   sorted set, tasks of the batch that is out
--   4 tasks     hash, task to document
--   5 delivered sorted set, task by the instant at which it was settled
--   6 stale     sorted set, likewise
--   7...        the eight keys of lib/record.lua, then history and failures list of the task
-- ARGV
--   1 task
--   2 document   as the caller saw it
--   3 history    entries kept in the task's history
--   4 failures   entries kept of those that left it and did not succeed
--   5 retention  ms after the last entry at which both lists are dropped
--   6... n (0 or 1), n records of six (lib/record.lua): its run, written if it waited for another call
--   last      deadline (lib/deadline.lua)
-- Returns
--   'ok', 'running' (a call may be under way), 'changed', or 'missing'
-- Cost: O(log(tasks)).

local fresh, failed, running, tasks, delivered, stale = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local member = ARGV[1]
local book = open_book(7, tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5])

local document = redis.call('HGET', tasks, member)
if not document then return 'missing' end
if document ~= ARGV[2] then return 'changed' end
redis.call('HDEL', tasks, member)
if redis.call('ZSCORE', running, member) then return 'running' end
if redis.call('ZREM', failed, member) == 1 then
  book.add(KEYS[15], KEYS[16], 7, tonumber(ARGV[6]))
  book.flush()
end
redis.call('ZREM', fresh, member)
redis.call('ZREM', delivered, member)
redis.call('ZREM', stale, member)
return 'ok'
