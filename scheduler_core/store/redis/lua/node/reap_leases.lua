-- needs: lease
-- Reclaim the jobs of dead nodes, and claimed jobs that lost their lease: one page of the claimed part of the due set.
--
-- Guarantee: the jobs of a node with a fresh heartbeat are not touched. A reclaimed job keeps the facts of its first
-- claim, so that the next node delivers the same run under a higher fence. The claim of the dead node is noted as lost,
-- because its request may have been sent. A suspect that its node held as the only one was lost alone, which is
-- evidence against it. A heartbeat more than `dead_after` ahead of `now` was written before Redis's clock was set back:
-- its node counts as dead.
--
-- Nothing was sent for a job that was claimed ahead of a wake-up which lies after `now`: it keeps no facts of that
-- claim. If the wake-up came after the last heartbeat of the node, the claim is noted as lost, but it is no evidence
-- against the run, because the node may have died before it.
--
-- KEYS
--   1 due     sorted set: claim key -> next wake-up
--   2 leases  hash: claim key -> lease
--   3 nodes   sorted set: node id -> last heartbeat
-- ARGV
--   1 now         epoch ms
--   2 dead_after  ms: a node without a heartbeat for this long is dead
--   3 void_all    0 or 1: void all leases, because no other node can live
--   4 lowest      score: in the due set to begin with
--   5 skip        count: jobs at that score to skip; they were examined before
--   6 limit       count: jobs to examine, at most 1000
-- Returns
--   {examined, `lowest` and `skip` of the next page, claim key, claim key, ...} with the claim keys that were reclaimed
-- Cost: O(limit × log(jobs)); two commands, one per node, and three per reclaimed job.

local due, leases, nodes = KEYS[1], KEYS[2], KEYS[3]
local now, dead_after, void_all = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local lowest, skip, limit = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local CLAIMED, PARKED = 1e15, '(2000000000000000'

local claimed = redis.call('ZRANGEBYSCORE', due, lowest, PARKED, 'WITHSCORES', 'LIMIT', skip, limit)
if #claimed == 0 then return {0, lowest, skip} end
local ids, reply, alive, beats = {}, {#claimed / 2, claimed[#claimed], 0}, {}, {}
for i = 1, #claimed, 2 do ids[#ids + 1] = claimed[i] end
local rows = redis.call('HMGET', leases, unpack(ids))
if tonumber(reply[2]) == tonumber(lowest) then reply[3] = skip end

for i, id in ipairs(ids) do
  local score, node = claimed[2 * i], nil
  if rows[i] then node = string.match(rows[i], '^%d+ (%S+) %d+ %d+ %d+ %S+ %d+%S*$') end
  if node and alive[node] == nil then
    local beat = tonumber(redis.call('ZSCORE', nodes, node) or 'inf')
    alive[node] = not void_all and beat >= now - dead_after and beat <= now + dead_after
    beats[node] = beat
  end
  if node and alive[node] then
    if score == reply[2] then reply[3] = reply[3] + 1 end
  else
    local lease = node and read_lease(rows[i])
    -- HDEL comes first: after it, a full Redis lets the script finish.
    redis.call('HDEL', leases, id)
    local due_at = string.format('%.0f', now)
    if lease then
      local claimed_at, wake = tonumber(score) - CLAIMED, tonumber(lease.score)
      local ahead = wake > claimed_at and wake < CLAIMED
      local unsent = ahead and wake > now
      if node ~= '-' then
        lease.node = '-'
        if not unsent then
          add_lost_claim(lease, math.max(claimed_at, ahead and wake or 0), 'd')
          if not ahead or wake <= beats[node] then lease.losses = lease.losses + 1 end
        end
        if lease.group == 1 then lease.alone = lease.alone + 1 end
        if lease.group > 0 then lease.group = math.max(1, math.floor(lease.group / 2)) end
      end
      if not unsent or tonumber(lease.first_claimed) <= now then
        redis.call('HSET', leases, id, write_lease(lease))
      end
      due_at = lease.score
    end
    if tonumber(due_at) > 9e15 then due_at = string.format('%.0f', now) end
    redis.call('ZADD', due, due_at, id)
    reply[#reply + 1] = id
  end
end
return reply
