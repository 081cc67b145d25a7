-- needs: lease
-- Give back the jobs of nodes that died, and claimed jobs that lost their lease.
--
-- A beat that lies ahead by more than `dead_after` was written before Redis's clock was set back: no sign of life.
--
-- Guarantee: a job whose node beats is left alone. A job given back keeps the facts of its first claim, so that the next
-- node delivers the same run under a higher fence; the claim of the dead node is noted as lost, since its request may have
-- been sent.
--
-- KEYS
--   1 due     sorted set, job id by wake-up
--   2 leases  hash, job id to lease
--   3 nodes   sorted set, node id by last beat
-- ARGV
--   1 now         epoch ms
--   2 dead_after  ms without a beat after which a node counts as dead
--   3 all         '1' to void all leases, whoever holds them (no other node can live)
--   4 offset      how many claimed jobs to pass over; they were examined before
--   5 limit       how many claimed jobs to examine
-- Returns
--   {examined, left in place, id, id, ...} with the ids given back
-- Cost: O(limit × log(jobs)).

local due, leases, nodes = KEYS[1], KEYS[2], KEYS[3]
local now, dead_after, all = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local offset, limit = ARGV[4], ARGV[5]
local CLAIMED, PARKED = '1000000000000000', '(4000000000000000'

local claimed = redis.call('ZRANGEBYSCORE', due, CLAIMED, PARKED, 'WITHSCORES', 'LIMIT', offset, limit)
local reply, alive = {#claimed / 2, 0}, {}
for i = 1, #claimed, 2 do
  local id = claimed[i]
  local row = redis.call('HGET', leases, id)
  local given_back = false
  local lease = row and read_lease(row)
  local node = lease and lease.node
  if node and alive[node] == nil then
    local beat = redis.call('ZSCORE', nodes, node)
    alive[node] = not all and beat ~= false
      and tonumber(beat) >= now - dead_after and tonumber(beat) <= now + dead_after
  end
  if not node then
    -- No lease, or none that can be read. HDEL comes first in both cases: a full Redis lets a script go on after it.
    redis.call('HDEL', leases, id)
    redis.call('ZADD', due, string.format('%.0f', now), id)
    given_back = true
  elseif not alive[node] then
    redis.call('HDEL', leases, id)
    if node ~= '-' then
      lease.node, lease.losses = '-', lease.losses + 1
      add_lost_claim(lease, tonumber(claimed[i + 1]) - tonumber(CLAIMED), 'd')
    end
    redis.call('HSET', leases, id, write_lease(lease))
    redis.call('ZADD', due, lease.score, id)
    given_back = true
  end
  if given_back then reply[#reply + 1] = id else reply[2] = reply[2] + 1 end
end
return reply
