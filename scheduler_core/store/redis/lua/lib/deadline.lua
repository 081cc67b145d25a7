-- Library for scripts that carry out a client's change: refuses one that arrives too late. A script asks for it by its
-- first line, `-- needs: deadline`, and then has one more argument, which this takes away:
--
--   last ARGV  deadline, epoch ms by this server's clock; empty: none
--
-- Guarantee: after the deadline the script fails with LATE and writes nothing. A client that stops waiting no earlier than
-- the deadline therefore knows that its change is stored by then, or never will be.

local deadline = table.remove(ARGV)
if deadline ~= '' then
  local time = redis.call('TIME')
  if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(deadline) then
    return redis.error_reply('LATE the change arrived after its deadline; nothing was stored')
  end
end
