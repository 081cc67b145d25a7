-- Save the results of the examination of some jobs: alarms, findings, and the instant of each next examination.
--
-- Guarantee: all of it, or nothing: nothing is written unless the sweep has the version that the caller read before it
-- examined the jobs. So of two nodes that examine the same jobs, one saves its findings. A job that changed since it
-- was read stays listed. The numbers of findings only grow, also after a failover that lost the latest writes.
--
-- KEYS
--   1 changed         sorted set: job id -> instant of its change (epoch µs) or of its next examination (epoch ms)
--   2 alert_jobs      hash: job id -> how far it was examined, and its alarms
--   3 alert_alarming  sorted set: the jobs with an alarm, at score 0
--   4 alert_sweep     hash: version and progress of the sweep, number of the latest finding
--   5 alert_findings  sorted set: finding -> its number
-- ARGV
--   1 version   count: that the caller read
--   2 progress  bytes: to store
--   3 findings  msgpack: an array of findings, each text
--   then for each job, at most 1000
--   * job_id    text
--   * score     score: in `changed` when the caller read it; empty: it was not listed
--   * look      epoch ms or empty: when it is to be examined again; empty: after its next change
--   * document  bytes: its alarms; empty: none
--   * alarming  0 or 1
-- Returns
--   'ok'; 'changed' if the version differs; 'off' if no rule exists
-- Cost: O((jobs + findings) × log(entries)).

local changed, alert_jobs, alert_alarming, alert_sweep, alert_findings = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local version = ARGV[1]
local FIELDS = 5

if not redis.call('ZSCORE', changed, '') then return 'off' end
local stored = redis.call('HMGET', alert_sweep, 'version', 'number')
if (stored[1] or '0') ~= version then return 'changed' end

for at = 4, #ARGV, FIELDS do
  local job_id, score, look, document = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local now = redis.call('ZSCORE', changed, job_id)
  if tonumber(now or '-1') == tonumber(score == '' and '-1' or score) then
    if look ~= '' then
      redis.call('ZADD', changed, look, job_id)
    elseif now then
      redis.call('ZREM', changed, job_id)
    end
  end
  if document == '' then
    redis.call('HDEL', alert_jobs, job_id)
  else
    redis.call('HSET', alert_jobs, job_id, document)
  end
  if ARGV[at + 4] == '1' then
    redis.call('ZADD', alert_alarming, 0, job_id)
  else
    redis.call('ZREM', alert_alarming, job_id)
  end
end

local time = redis.call('TIME')
local number = math.max(tonumber(stored[2] or '0'), time[1] * 1e6 + time[2])
for _, finding in ipairs(cmsgpack.unpack(ARGV[3])) do
  number = number + 1
  local text = string.format('%.0f', number)
  redis.call('ZADD', alert_findings, text, text .. ' ' .. finding)
end
redis.call(
  'HSET', alert_sweep, 'version', string.format('%.0f', version + 1), 'progress', ARGV[2],
  'number', string.format('%.0f', number)
)
return 'ok'
