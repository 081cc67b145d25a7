-- Store new and changed messages, and for each shard the number of the latest finding that is in one.
--
-- Guarantee: all of it, or nothing: nothing is written unless the messages have the version that the caller planned
-- from. So each finding is added to messages once. At most `kept` messages that are not waiting are kept, the latest.
--
-- KEYS
--   1 alert_outbox    hash: lease, version of the messages, latest finding of each shard that is in a message
--   2 alert_messages  hash: message id -> message
--   3 alert_waiting   sorted set: id of a message to be sent -> instant of its next attempt
--   4 alert_sent      sorted set: the ids of all messages, at score 0
-- ARGV
--   1 version    count: that the caller planned from
--   2 positions  msgpack: an array: shard, number of its latest finding, and so on; empty: unchanged
--   3 kept       count
--   then for each message, at most 1000
--   * id        text
--   * document  bytes
--   * next      epoch ms or empty: its next attempt; empty: it is not tried again
-- Returns
--   1, or 0 if the version differs
-- Cost: O(messages × log(all messages)).

local alert_outbox, alert_messages, alert_waiting, alert_sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local version, kept = ARGV[1], tonumber(ARGV[3])
local FIELDS = 3

if (redis.call('HGET', alert_outbox, 'version') or '0') ~= version then return 0 end
for at = 4, #ARGV, FIELDS do
  local id, next_ms = ARGV[at], ARGV[at + 2]
  redis.call('HSET', alert_messages, id, ARGV[at + 1])
  redis.call('ZADD', alert_sent, 0, id)
  if next_ms == '' then
    redis.call('ZREM', alert_waiting, id)
  else
    redis.call('ZADD', alert_waiting, next_ms, id)
  end
end
local positions = ARGV[2] == '' and {} or cmsgpack.unpack(ARGV[2])
for at = 1, #positions, 2 do
  redis.call('HSET', alert_outbox, 'position:' .. positions[at], positions[at + 1])
end
redis.call('HSET', alert_outbox, 'version', string.format('%.0f', version + 1))

local excess = redis.call('ZCARD', alert_sent) - redis.call('ZCARD', alert_waiting) - kept
if excess > 0 then
  for _, id in ipairs(redis.call('ZRANGE', alert_sent, 0, excess + redis.call('ZCARD', alert_waiting))) do
    if excess <= 0 then break end
    if not redis.call('ZSCORE', alert_waiting, id) then
      redis.call('ZREM', alert_sent, id)
      redis.call('HDEL', alert_messages, id)
      excess = excess - 1
    end
  end
end
return 1
