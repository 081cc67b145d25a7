-- Library for scripts that change targets: raises the number by which nodes notice the change. A script requests it
-- with its first line, `-- needs: version`.
--
--   raise_targets_version(meta)
--
-- Guarantee: a number is never used again for other content, because it is at least the server's time in microseconds.
-- This holds even after a replica was promoted that lacks the last writes.
--
-- meta  hash: `targets_version`

local function raise_targets_version(meta)
  local time = redis.call('TIME')
  local before = tonumber(string.match(redis.call('HGET', meta, 'targets_version') or '', '^%d+$') or '0')
  if before > 9e15 then before = 0 end
  redis.call('HSET', meta, 'targets_version', string.format('%.0f', math.max(before + 1, time[1] * 1e6 + time[2])))
end
