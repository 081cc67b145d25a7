-- Library for scripts that carry out a client's change: refuses a change that arrives too late. A script requests it
-- with its first line, `-- needs: deadline`, and then has one more argument, which this removes from ARGV:
--
--   last deadline  epoch ms or empty: by this server's clock; empty: none
--
-- Guarantee: after the deadline the script fails with LATE and writes nothing. So when a client has waited until the
-- deadline, its change is stored already or never will be.

local deadline = table.remove(ARGV)
if deadline ~= '' then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(deadline) then
    return redis.error_reply('LATE the change arrived after its deadline; nothing was stored')
  end
end
