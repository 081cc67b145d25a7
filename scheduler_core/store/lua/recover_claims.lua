-- Find the jobs that a claim took whose reply was lost, and see to it that it takes no more.
--
-- Guarantee: should that claim still be on its way, it finds its number used up when it arrives. A lease that was reaped
-- meanwhile is not returned.
--
-- KEYS
--   1 leases  hash, job id to lease
--   2 jobs    hash, job id to definition
--   3 states  hash, job id to state
--   4 claims  hash, node id to number of its latest claim
-- ARGV
--   1 node   node id
--   2 token  number of the claim
-- Returns
--   {row, row, ...} with the rows of claim_jobs
-- Cost: O(leases of all nodes), which is bounded by what the nodes may have in flight; only after a lost reply.

local leases, jobs, states, claims = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local node, token = ARGV[1], ARGV[2]

if tonumber(token) > tonumber(redis.call('HGET', claims, node) or '0') then
  redis.call('HDEL', claims, node) -- frees first, so that a full Redis goes on
  redis.call('HSET', claims, node, token)
end

local rows = {}
local all = redis.call('HGETALL', leases)
for i = 1, #all, 2 do
  local holder, claim = string.match(all[i + 1], '^%d+ (%S+) %d+ %d+ %d+ %S+ (%d+)$')
  if holder == node and claim == token then
    local id = all[i]
    rows[#rows + 1] = {id, redis.call('HGET', jobs, id), redis.call('HGET', states, id), all[i + 1]}
  end
end
return rows
