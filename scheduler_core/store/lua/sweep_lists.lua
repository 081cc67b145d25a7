-- Drop the lists of jobs that are gone and have no record left.
--
-- Guarantee: the lists of a job that is there are left alone, and so are those with a run whose record is stored, so that
-- what can be read of a deleted job is read until it is trimmed. Without this a million jobs that run once would leave a
-- million lists. Running it again changes nothing.
--
-- KEYS
--   1 jobs     hash, job id to definition
--   2 records  hash, run id to record
--   3...       history and failures list of each job, in order
-- ARGV
--   1... job ids, at most 500
-- Returns
--   how many jobs' lists were dropped
-- Cost: O(jobs × entries), for those that are gone.

local jobs, records = KEYS[1], KEYS[2]

local function has_record(list)
  local entries = redis.pcall('LRANGE', list, 0, -1)
  if entries.err then return true end
  for _, entry in ipairs(entries) do
    local id = string.match(entry, '^%u%d*%l? (%S+) %d+$')
    if id and redis.call('HEXISTS', records, id) == 1 then return true end
  end
  return false
end

local dropped = 0
for i, id in ipairs(ARGV) do
  local history, failures = KEYS[1 + 2 * i], KEYS[2 + 2 * i]
  if redis.call('HEXISTS', jobs, id) == 0 and not has_record(history) and not has_record(failures) then
    redis.call('UNLINK', history, failures)
    dropped = dropped + 1
  end
end
return dropped
