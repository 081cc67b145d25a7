-- needs: lists
-- Drop the lists of jobs that are gone and have no record left.
--
-- Guarantee: that of lib/lists.lua; what can be read of a deleted job is read until it is trimmed. Without this a million
-- jobs that run once would leave a million lists. Running it again changes nothing.
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

local dropped = 0
for i, id in ipairs(ARGV) do
  if drop_lists(KEYS[1], KEYS[2], id, KEYS[1 + 2 * i], KEYS[2 + 2 * i]) then dropped = dropped + 1 end
end
return dropped
