-- needs: index
-- Add stored jobs to sets of the index that miss them.
--
-- Guarantee: a job is added only if its state is the one that its entries were computed from. Each change of a job
-- writes a new state, so an entry that a change removes is not added again.
--
-- KEYS
--   1 states  hash: claim key -> state
--   then the sets of the index that `index_writes` names
--   ** index  sorted set: job id -> score (model/index.py)
-- ARGV
--   1 index_writes  bytes: msgpack: the writes to the index (lib/index.lua)
--   then for each job, at most 1000
--   * job_id        text
--   * expected_tag  bytes: the 8-byte tag of the state; empty: none stored
-- Returns
--   for each job: 'ok' or 'changed'
-- Cost: O(entries × log(entries of a set)); two commands and one per entry.

local FIELDS, FIRST = 2, 2
local job_ids, replies = {}, {}
for at = FIRST, #ARGV, FIELDS do job_ids[#job_ids + 1] = ARGV[at] end
local stored = redis.call('HMGET', KEYS[1], unpack(job_ids))
for i = 1, #job_ids do
  local tag = stored[i] and string.sub(stored[i], 1, 8) or ''
  replies[i] = tag == ARGV[FIRST + FIELDS * i - 1] and 'ok' or 'changed'
end
write_index(ARGV[1], 1, job_ids, replies, 0)
return replies
