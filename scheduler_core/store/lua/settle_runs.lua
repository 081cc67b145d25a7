-- Settle a batch of claimed jobs: record what happened, set the next wake-up, release the lease. One step per job.
--
-- Guarantee: a job is changed only if fence and node are those that its lease carries, and only if its state is the
-- one that the caller planned from. Both are checked and acted upon in this one step, so no fire time is lost or doubled
-- in between. Running the same settle twice changes nothing the second time. The first write frees memory (HDEL), after
-- which Redis lets a script finish, so that a full Redis can still be told how a run ended.
--
-- KEYS
--   1 due     sorted set, job id by wake-up
--   2 jobs    hash, job id to definition
--   3 states  hash, job id to state
--   4 leases  hash, job id to lease
--   5 ids     sorted set, all job ids at score 0
--   6...      list, history of each job of the batch, in order
-- ARGV
--   1 history   entries kept per job
--   2 retention ms after the last entry at which a job's history is dropped
--   then for each job of the batch:
--     id, fence and node, expected tag (8 bytes; empty: none stored), operation, state (tag first), wake-up, n, n records
--   operation: 'save'    store the state
--              'remove'  the job is finished or was deleted: remove it
--              'release' leave the state as it is
--              'return'  hand the job back unfinished, to be claimed again as the same run
-- Returns
--   for each job: 'ok', 'done' (this very settle was applied before), 'stale' (the fence has passed to another), or
--   {definition or false, state or false} if the job was changed since
-- Cost: O(log(jobs)) and six to eight commands per job.

local due, jobs, states, leases, ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local history, retention = tonumber(ARGV[1]), ARGV[2]

local replies = {}
local at, key = 3, 6
while at <= #ARGV do
  local id, holder, expected, operation = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local state, wake, n = ARGV[at + 4], ARGV[at + 5], tonumber(ARGV[at + 6])
  local records = at + 7
  at = records + n

  local lease = redis.call('HGET', leases, id)
  local stored = redis.call('HGET', states, id)
  local tag = stored and string.sub(stored, 1, 8) or ''
  local reply
  -- The node as well: a Redis that lost its last writes in a crash gives their fences again.
  if not lease or string.match(lease, '^%S+ %S+') ~= holder then
    local done
    if operation == 'return' then
      done = lease and string.match(lease, '^(%S+) %-') == string.match(holder, '^%S+')
    elseif operation == 'remove' or state == '' then
      done = not lease and not stored
    else
      done = state ~= '' and tag == string.sub(state, 1, 8)
    end
    reply = done and 'done' or 'stale'
  elseif operation == 'return' then
    local rest = string.match(lease, '^%S+ %S+ (.*)$')
    redis.call('HDEL', leases, id)
    redis.call('HSET', leases, id, string.match(holder, '^%S+') .. ' - ' .. rest)
    redis.call('ZADD', due, string.match(lease, '^%S+ %S+ %S+ %S+ %S+ (%S+)'), id)
    reply = 'ok'
  elseif tag ~= expected then
    reply = {redis.call('HGET', jobs, id), stored}
  else
    redis.call('HDEL', leases, id)
    if operation == 'remove' then
      redis.call('HDEL', jobs, id)
      redis.call('HDEL', states, id)
      redis.call('ZREM', due, id)
      redis.call('ZREM', ids, id)
    else
      if operation == 'save' then
        redis.call('HSET', states, id, state)
      end
      if stored or operation == 'save' then
        redis.call('ZADD', due, wake, id)
      else
        redis.call('ZREM', due, id)
      end
    end
    if n > 0 then
      redis.call('RPUSH', KEYS[key], unpack(ARGV, records, records + n - 1))
      redis.call('LTRIM', KEYS[key], -history, -1)
      redis.call('PEXPIRE', KEYS[key], retention)
    end
    reply = 'ok'
  end
  replies[#replies + 1] = reply
  key = key + 1
end
return replies
