-- Apply a client's change of one job: upsert, delete, pause, resume, run now.
--
-- Guarantee: nothing is written unless state and lease are those that the caller planned from. While a node holds the
-- lease, the due set is left alone: the settle of its run sets the next wake-up.
--
-- KEYS
--   1 due     sorted set, job id by wake-up
--   2 jobs    hash, job id to definition
--   3 states  hash, job id to state
--   4 leases  hash, job id to lease
--   5 ids     sorted set, all job ids at score 0
--   6 history list, of this job
-- ARGV
--   1 id
--   2 expected tag    8 bytes; empty: no state is stored
--   3 expected lease  as stored; empty: none
--   4 definition      to store; empty: leave the stored one
--   5 operation       'save', or 'remove' to delete the job
--   6 state           to store, tag first; empty with 'remove': leave no tombstone
--   7 wake-up         score in the due set
--   8 history         entries kept
--   9 retention       ms after the last entry at which the history is dropped
--   10 channel        where nodes listen for earlier wake-ups
--   11... records     to append to the history
-- Returns
--   'ok', or 'changed' if the job is not what the caller planned from
-- Cost: O(log(jobs)); four to ten commands.

local due, jobs, states, leases, ids, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, expected_tag, expected_lease, definition, operation = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local state, wake, history, retention, channel = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]

local stored = redis.call('HGET', states, id)
local lease = redis.call('HGET', leases, id) or ''
if (stored and string.sub(stored, 1, 8) or '') ~= expected_tag or lease ~= expected_lease then
  return 'changed'
end

-- Raises before anything is written if the key of the history holds something else.
if #ARGV > 10 then redis.call('LLEN', log) end

if operation == 'remove' then
  redis.call('HDEL', jobs, id)
  redis.call('ZREM', ids, id)
  if state == '' then
    redis.call('HDEL', states, id)
  else
    redis.call('HSET', states, id, state)
  end
  if lease == '' then redis.call('ZREM', due, id) end
else
  if definition ~= '' then
    redis.call('HSET', jobs, id, definition)
    redis.call('ZADD', ids, 0, id)
  end
  redis.call('HSET', states, id, state)
  if lease == '' then
    redis.call('ZADD', due, wake, id)
    if redis.call('ZRANGE', due, 0, 0)[1] == id then redis.call('PUBLISH', channel, wake) end
  end
end
if #ARGV > 10 then
  redis.call('RPUSH', log, unpack(ARGV, 11))
  redis.call('LTRIM', log, -history, -1)
  redis.call('PEXPIRE', log, retention)
end
return 'ok'
