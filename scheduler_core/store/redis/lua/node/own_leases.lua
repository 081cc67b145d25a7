-- The leases of one node, as Redis has them: for the node to compare with what it works on. One page of all leases.
--
-- Guarantee: changes nothing. A lease that is there all the time is in one of the pages, perhaps in two.
--
-- KEYS
--   1 leases  hash, job id to lease
-- ARGV
--   1 node    node id
--   2 cursor  of the page: 0, then what the page before has returned
--   3 limit   how many leases to examine, about
-- Returns
--   {cursor of the next page or 0, id, fence, number of the claim that took it, its first claim (epoch ms), id, ...}
-- Cost: O(limit).

local mark = ' ' .. ARGV[1] .. ' '
local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local found, all = {page[1]}, page[2]
for i = 1, #all, 2 do
  if string.find(all[i + 1], mark, 1, true) then
    local fence, holder, first, claim = string.match(all[i + 1], '^(%d+) (%S+) %d+ (%d+) %d+ %S+ (%d+)%S*$')
    if holder == ARGV[1] then
      found[#found + 1], found[#found + 2], found[#found + 3], found[#found + 4] = all[i], fence, claim, first
    end
  end
end
return found
