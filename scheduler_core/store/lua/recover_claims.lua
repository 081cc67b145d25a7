-- Find the jobs that a claim took whose reply was lost.
--
-- Guarantee: reads only. A lease that was reaped meanwhile is not returned.
--
-- KEYS
--   1 leases  hash, job id to lease
--   2 jobs    hash, job id to definition
--   3 states  hash, job id to state
-- ARGV
--   1 node   node id
--   2 token  of the claim
-- Returns
--   {row, row, ...} with the rows of claim_jobs
-- Cost: O(leases of all nodes), which is bounded by what the nodes may have in flight; only after a lost reply.

local leases, jobs, states = KEYS[1], KEYS[2], KEYS[3]
local node, token = ARGV[1], ARGV[2]

local rows = {}
local all = redis.call('HGETALL', leases)
for i = 1, #all, 2 do
  local holder, claim = string.match(all[i + 1], '^%S+ (%S+) %S+ %S+ %S+ %S+ (%S+)$')
  if holder == node and claim == token then
    local id = all[i]
    rows[#rows + 1] = {id, redis.call('HGET', jobs, id), redis.call('HGET', states, id), all[i + 1]}
  end
end
return rows
