-- needs: deadline
-- Change settings of the lane. They hold for all nodes from their next batch on.
--
-- Guarantee: those that are not given stay as they are, or become the defaults if the store has none yet.
--
-- KEYS
--   1 settings  hash
-- ARGV
--   1 channel  where nodes listen for what changes in the lane
--   2 to 5     base_interval_ms, http_callback_timeout_ms, select_size and max_retries if the store has none
--   6 to 9     the same, to set; empty: leave it
--   last      deadline (lib/deadline.lua)
-- Returns
--   the four as they are now
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
