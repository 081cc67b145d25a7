-- Begin to list changed jobs of this shard for the alert rules, or stop and remove the results of examinations.
--
-- Guarantee: jobs are listed if and only if the set `changed` exists, which its member with an empty name keeps. The
-- numbers of the sweep stay, so that none is used twice. A node that read an older version of the rules changes nothing.
--
-- KEYS
--   1 changed         sorted set: job id -> instant of its change (epoch µs) or of its next examination (epoch ms)
--   2 alert_jobs      hash: job id -> how far it was examined, and its alarms
--   3 alert_alarming  sorted set: the jobs with an alarm, at score 0
--   4 alert_sweep     hash: version and progress of the sweep, number of the latest finding, version of the rules for
--                     which this script ran
--   5 alert_findings  sorted set: finding -> its number
-- ARGV
--   1 on       0 or 1
--   2 version  count: of the rules that the caller read
--   3 force    0 or 1: also if the script ran for a later version; a failover lost that version
-- Returns
--   1, or 0 if the script ran for a later version
-- Cost: O(1); Redis frees the memory in the background.

local changed, alert_jobs, alert_alarming, alert_sweep = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local stored = tonumber(redis.call('HGET', alert_sweep, 'armed') or '0')
if stored > tonumber(ARGV[2]) and ARGV[3] ~= '1' then return 0 end
redis.call('HSET', alert_sweep, 'armed', ARGV[2])
if ARGV[1] == '1' then
  redis.call('ZADD', changed, '+inf', '')
else
  redis.call('UNLINK', changed, alert_jobs, alert_alarming, KEYS[5])
  redis.call('HDEL', alert_sweep, 'progress')
end
return 1
