-- needs: lists
-- Drop the lists of deleted jobs that have no record left.
--
-- Guarantee: as in lib/lists.lua; the history of a deleted job can be read until its records are trimmed. Without this
-- script, a million jobs that run once would leave a million lists. Running it again changes nothing.
--
-- KEYS
--   1 jobs      hash: claim key -> definition
--   2 records   hash: run id -> record
--   then for each job
--   * history   list
--   * failures  list
-- ARGV
--   then for each job, at most 500
--   * job_id  text
-- Returns
--   number of jobs whose lists were dropped
-- Cost: O(jobs × entries), counting only deleted jobs.

local jobs, records = KEYS[1], KEYS[2]
local dropped = 0
for i, id in ipairs(ARGV) do
  if drop_lists(jobs, records, id, KEYS[1 + 2 * i], KEYS[2 + 2 * i]) then dropped = dropped + 1 end
end
return dropped
