-- Read one page of the leases of a node, which it compares with the runs that it works on.
--
-- Guarantee: reads only. A lease that exists during the whole read is in one of the pages, perhaps in two.
--
-- KEYS
--   1 leases  hash: claim key -> lease
-- ARGV
--   1 node    text: node id
--   2 cursor  cursor: of the page; 0, then what the page before returned
--   3 limit   count: leases to examine, about
-- Returns
--   {cursor of the next page or 0, claim key, fence, number of the claim that took it, its first claim (epoch ms),
--   claim key, ...}
-- Cost: O(limit).

local leases = KEYS[1]
local mark = ' ' .. ARGV[1] .. ' '
local page = redis.call('HSCAN', leases, ARGV[2], 'COUNT', ARGV[3])
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
