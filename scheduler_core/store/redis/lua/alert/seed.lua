-- List jobs to be examined by the alert rules.
--
-- Guarantee: nothing is listed while no rule exists; jobs that are listed already keep their place.
--
-- KEYS
--   1 changed  sorted set: job id -> instant of its change (epoch µs) or of its next examination (epoch ms)
-- ARGV
--   1 at  epoch ms: when they are to be examined
--   then for each job, at most 1000
--   * job_id  text
-- Returns
--   how many were added
-- Cost: O(jobs × log(entries)).

local changed, at = KEYS[1], ARGV[1]
local FIELDS = 1

if not redis.call('ZSCORE', changed, '') then return 0 end
local rows = {}
for i = 2, #ARGV, FIELDS do
  rows[#rows + 1], rows[#rows + 2] = at, ARGV[i]
end
if #rows == 0 then return 0 end
return redis.call('ZADD', changed, 'NX', unpack(rows))
