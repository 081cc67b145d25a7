-- needs: deadline
-- Change the settings of one-off tasks. They apply to all nodes from the next batch on.
--
-- Guarantee: settings that are not given stay as they are, or get the defaults if the store has none yet.
--
-- KEYS
--   1 settings  hash
-- ARGV
--   1 channel                           text: where nodes listen for changes of one-off tasks
--   2 default_base_interval_ms          ms: if the store has none
--   3 default_http_callback_timeout_ms  ms: if the store has none
--   4 default_select_size               count: if the store has none
--   5 default_max_retries               count: if the store has none
--   6 base_interval_ms                  ms or empty: to set; empty: unchanged
--   7 http_callback_timeout_ms          ms or empty: likewise
--   8 select_size                       count or empty: likewise
--   9 max_retries                       count or empty: likewise
--   last deadline                       epoch ms or empty: see lib/deadline.lua
-- Returns
--   the four settings as they are now
-- Cost: O(1).

local settings = KEYS[1]
local NAMES = {'base_interval_ms', 'http_callback_timeout_ms', 'select_size', 'max_retries'}

local values = redis.call('HMGET', settings, unpack(NAMES))
local written = {}
for i = 1, 4 do
  if ARGV[5 + i] ~= '' then values[i] = ARGV[5 + i] end
  if not values[i] or not string.match(values[i], '^%d+$') or #values[i] > 12 then values[i] = ARGV[1 + i] end
  written[#written + 1], written[#written + 2] = NAMES[i], values[i]
end
redis.call('HSET', settings, unpack(written))
redis.call('PUBLISH', ARGV[1], '0')
return values
