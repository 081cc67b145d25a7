-- Begin to list changed jobs of this shard for the alert rules, or stop and remove the results of examinations.
--
-- Guarantee: jobs are listed if and only if the set `changed` exists, which its member with an empty name keeps. The
-- numbers of the sweep stay, so that none is used twice.
--
-- KEYS
--   1 changed         sorted set: job id -> instant of its change (epoch µs) or of its next examination (epoch ms)
--   2 alert_jobs      hash: job id -> how far it was examined, and its alarms
--   3 alert_alarming  sorted set: the jobs with an alarm, at score 0
--   4 alert_sweep     hash: version and progress of the sweep, number of the latest finding
--   5 alert_findings  sorted set: finding -> its number
-- ARGV
--   1 on  0 or 1
-- Returns
--   nothing
-- Cost: O(1); Redis frees the memory in the background.

local changed, alert_jobs, alert_alarming, alert_sweep = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

if ARGV[1] == '1' then
  redis.call('ZADD', changed, '+inf', '')
else
  redis.call('UNLINK', changed, alert_jobs, alert_alarming, KEYS[5])
  redis.call('HDEL', alert_sweep, 'progress')
end
