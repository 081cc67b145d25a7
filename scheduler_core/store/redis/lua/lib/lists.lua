-- Library for scripts that remove jobs or their records: drops the lists of a removed job when none of its records is
-- stored any more. A script requests it with its first line, `-- needs: lists`.
--
--   drop_lists(jobs, records, job id, history list, failures list)    true if they were dropped
--
-- Guarantee: the lists of an existing job stay, also if the job was created again under its id. Lists that name a run
-- whose record is stored stay too: they are dropped when the last such record is trimmed. Lists that name no run hold
-- only misses; they stay until they expire. The caller's first write has freed memory, or this is the first write
-- (UNLINK), so that a full Redis accepts it.
-- Cost: O(1) for an existing job; else O(entries), or two commands if the latest run has its record.

local function drop_lists(jobs, records, job_id, history, failures)
  if redis.call('HEXISTS', jobs, job_id) == 1 then return false end
  local names_run = false
  for _, list in ipairs({history, failures}) do
    local entries = redis.pcall('LRANGE', list, 0, -1)
    if entries.err then return false end
    for i = #entries, 1, -1 do
      local run_id = string.match(entries[i], '^%u%d*%l? (%S+) %d+$')
      if run_id then
        if redis.call('HEXISTS', records, run_id) == 1 then return false end
        names_run = true
      end
    end
  end
  if names_run then redis.call('UNLINK', history, failures) end
  return names_run
end
