-- needs: deadline
-- Store or remove one alert rule or channel.
--
-- Guarantee: nothing is written unless the book has the version that the caller planned from. So limits, and rules that
-- name a channel, are checked by the caller.
--
-- KEYS
--   1 alert_book  hash: rules and channels, their version and the latest id
-- ARGV
--   1 version   count: that the caller read
--   2 field     text: 'rule:' or 'channel:' and its id
--   3 document  bytes: to store; empty: remove it
--   4 last_id   count: the latest id that was given out
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   1, or 0 if the version differs
-- Cost: O(1).

local alert_book = KEYS[1]
local version, field, document = ARGV[1], ARGV[2], ARGV[3]

if (redis.call('HGET', alert_book, 'version') or '0') ~= version then return 0 end
if document == '' then
  redis.call('HDEL', alert_book, field)
else
  redis.call('HSET', alert_book, field, document)
end
redis.call('HSET', alert_book, 'version', string.format('%.0f', version + 1), 'last_id', ARGV[4])
return 1
