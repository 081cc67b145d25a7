-- Release the unsettled tasks of a batch whose node died or cannot continue. This does not count as a retry.
--
-- Guarantee: the batch is released once; later settlements of its node are refused, because its fence is gone. A task
-- that was deleted during its call is not due again. The first write frees memory, so that a full Redis accepts it.
--
-- KEYS
--   1 fresh    sorted set: task that never failed -> instant of its execution (epoch ms)
--   2 failed   sorted set: likewise, tasks that did
--   3 running  sorted set: the tasks of the batch; 10^15 is added to the score of one that has failed
--   4 tasks    hash: task -> document
--   5 batch    hash: node, fence, token, out, ended
-- ARGV
--   1 node     text: node id that took the batch
--   2 fence    count or empty: of the batch; empty: any fence
--   3 ended    epoch ms or empty: the end of the batch; empty: no task was called, so no new pause begins
--   4 channel  text: where nodes listen for changes of one-off tasks
-- Returns
--   number of released tasks; -1 if no such batch is out
-- Cost: O(batch × log(tasks)).

local fresh, failed, running, tasks, batch = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local HAS_FAILED, CHUNK = 1e15, 500

local facts = redis.call('HMGET', batch, 'node', 'fence', 'out')
if facts[3] ~= '1' or facts[1] ~= ARGV[1] or (ARGV[2] ~= '' and facts[2] ~= ARGV[2]) then return -1 end

redis.call('HDEL', batch, 'fence')
local count = 0
while true do
  local rows = redis.call('ZRANGE', running, 0, CHUNK - 1, 'WITHSCORES')
  if #rows == 0 then break end
  redis.call('ZREMRANGEBYRANK', running, 0, CHUNK - 1)
  for i = 1, #rows, 2 do
    if redis.call('HEXISTS', tasks, rows[i]) == 1 then
      local score = tonumber(rows[i + 1])
      local has_failed = score >= HAS_FAILED
      redis.call('ZADD', has_failed and failed or fresh,
        string.format('%.0f', has_failed and score - HAS_FAILED or score), rows[i])
      count = count + 1
    end
  end
end
redis.call('HSET', batch, 'out', '0')
if ARGV[3] ~= '' then redis.call('HSET', batch, 'ended', ARGV[3]) end
redis.call('PUBLISH', ARGV[4], '0')
return count
