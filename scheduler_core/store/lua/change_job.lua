-- needs: record
-- Apply a change of one unit that no settle brings about: upsert, delete, pause, resume, run now, what a runner says by
-- callback. A unit is a job, or one run of a job that allows overlap (see settle_runs).
--
-- Guarantee: nothing is written unless state and lease are those that the caller planned from. While a node holds the
-- lease, the due set is left alone: the settle of its run sets the next wake-up.
--
-- KEYS
--   1 due      sorted set, unit by wake-up
--   2 jobs     hash, unit to definition
--   3 states   hash, unit to state
--   4 leases   hash, unit to lease
--   5 ids      sorted set, all job ids at score 0
--   6 waiting  sorted set, unit by start of its run, for runs that wait for a retry or a completion
--   7 children sorted set, units of runs that overlap, at score 0
--   8 history  list, of the unit's job
--   9 failures list, of the unit's job
--   10...      the eight keys of lib/record.lua
-- ARGV
--   1 id
--   2 expected tag    8 bytes; empty: no state is stored
--   3 expected lease  as stored; empty: none
--   4 definition      to store; empty: leave the stored one
--   5 operation       'save', or 'remove' to delete the unit
--   6 state           to store, tag first; empty with 'remove': leave no tombstone
--   7 wake-up         score in the due set
--   8 waiting         score of a run that waits; '-': none waits; empty: leave it as it is
--   9 history         entries kept
--   10 failures       entries kept of those that left the history and did not succeed
--   11 retention      ms after the last entry at which both lists are dropped
--   12 channel        where nodes listen for earlier wake-ups
--   13... records     n, then n records of six (lib/record.lua)
-- Returns
--   'ok', or 'changed' if the unit is not what the caller planned from
-- Cost: O(log(units)); four to twenty commands.

local due, jobs, states, leases, ids, waiting, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local log, failed = KEYS[8], KEYS[9]
local id, expected_tag, expected_lease, definition, operation = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local state, wake, wait, channel = ARGV[6], ARGV[7], ARGV[8], ARGV[12]
local n = tonumber(ARGV[13])
local is_child = string.find(id, '\31', 1, true)
local book = open_book(10, tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11])

local stored = redis.call('HGET', states, id)
local lease = redis.call('HGET', leases, id) or ''
if (stored and string.sub(stored, 1, 8) or '') ~= expected_tag or lease ~= expected_lease then
  return 'changed'
end

-- Raises before anything is written if the key of the history holds something else.
if n > 0 then redis.call('LLEN', log) end

if operation == 'remove' then
  redis.call('HDEL', jobs, id)
  redis.call('ZREM', is_child and children or ids, id)
  if state == '' then
    redis.call('HDEL', states, id)
  else
    redis.call('HSET', states, id, state)
  end
  if lease == '' and state == '' then redis.call('ZREM', due, id) end
  -- A tombstone whose run the runner has taken: it wakes when that run is to be given up.
  if lease == '' and state ~= '' then redis.call('ZADD', due, wake, id) end
else
  if definition ~= '' then
    redis.call('HSET', jobs, id, definition)
    if not is_child then redis.call('ZADD', ids, 0, id) end
  end
  redis.call('HSET', states, id, state)
  if lease == '' then
    redis.call('ZADD', due, wake, id)
    if redis.call('ZRANGE', due, 0, 0)[1] == id then redis.call('PUBLISH', channel, wake) end
  end
end
if wait == '-' then
  redis.call('ZREM', waiting, id)
elseif wait ~= '' then
  redis.call('ZADD', waiting, wait, id)
end
book.add(log, failed, 14, n)
book.flush()
return 'ok'
