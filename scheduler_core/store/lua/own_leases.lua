-- The leases of one node, as Redis has them: for the node to compare with what it works on.
--
-- Guarantee: changes nothing.
--
-- KEYS
--   1 leases  hash, job id to lease
-- ARGV
--   1 node  node id
-- Returns
--   {id, fence, number of the claim that took it, id, ...}
-- Cost: O(leases of all nodes), which is bounded by what the nodes may have in flight; once in some seconds.

local found = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local fence, holder, claim = string.match(all[i + 1], '^(%d+) (%S+) %d+ %d+ %d+ %S+ (%d+)%S*$')
  if holder == ARGV[1] then
    found[#found + 1], found[#found + 2], found[#found + 3] = all[i], fence, claim
  end
end
return found
