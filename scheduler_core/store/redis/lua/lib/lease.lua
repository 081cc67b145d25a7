-- Library for scripts that change the holder of a lease. A script requests it with its first line, `-- needs: lease`.
--
--   read_lease(row)                   the lease as a table, nil if it cannot be read
--   write_lease(lease)                its row
--   add_lost_claim(lease, at, cause)  notes that its claim ended without a settle although its request may have been
--                                     sent
--
-- A row is `fence node first_fence first_claimed losses score
-- token[:downtimes][~alone:group:count:fence.at.cause,...]`:
--   downtimes  how many downtimes the store had recorded at the first claim; missing in rows of earlier versions
--   alone      losses of nodes that held this run as their only suspect
--   group      of a suspect: while it is held, how many suspects the claim took; while it waits, the largest group that
--              it may be tried in next (0: no limit)
--   count      lost claims since the first one; the latest LOST_KEPT of them are listed, each with its instant (epoch
--              ms) and cause: d(ied), s(topped), f(orgotten: Redis lost how its run ended)
-- The part after the token has no space, so that nodes of earlier versions can read such rows.

local LOST_KEPT = 10

local function read_lease(row)
  local lease = {}
  local rest
  lease.fence, lease.node, lease.first_fence, lease.first_claimed, lease.losses, lease.score, lease.token, rest =
    string.match(row, '^(%d+) (%S+) (%d+) (%d+) (%d+) (%S+) (%d+)(%S*)$')
  if not lease.fence or not tonumber(lease.score) then return nil end
  local more
  lease.known, more = string.match(rest, '^(:?%d*)(.*)$')
  lease.alone, lease.group, lease.lost, lease.list = 0, 0, 0, ''
  if more ~= '' then
    local alone, group, lost, list = string.match(more, '^~(%d+):(%d+):(%d+):([%d.a-z,]*)$')
    if not alone then return nil end
    lease.alone, lease.group, lease.lost, lease.list = tonumber(alone), tonumber(group), tonumber(lost), list
  end
  lease.losses = tonumber(lease.losses)
  return lease
end

local function write_lease(lease)
  local row = table.concat({lease.fence, lease.node, lease.first_fence, lease.first_claimed,
    string.format('%.0f', lease.losses), lease.score, lease.token .. lease.known}, ' ')
  if lease.losses == 0 and lease.lost == 0 then return row end
  return row .. string.format('~%.0f:%.0f:%.0f:%s', lease.alone, lease.group, lease.lost, lease.list)
end

local function add_lost_claim(lease, at, cause)
  lease.lost = lease.lost + 1
  local claims = {}
  for claim in string.gmatch(lease.list, '[^,]+') do claims[#claims + 1] = claim end
  claims[#claims + 1] = lease.fence .. '.' .. string.format('%.0f', at) .. '.' .. cause
  while #claims > LOST_KEPT do table.remove(claims, 1) end
  lease.list = table.concat(claims, ',')
end
