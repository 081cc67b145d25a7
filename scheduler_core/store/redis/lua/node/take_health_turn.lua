-- Take the turn to look for jobs whose health changed without a write, which one node gets in each interval.
--
-- Guarantee: of all nodes that call within an interval, one gets the turn. A stored instant ahead of `now` was written
-- before Redis's clock was set back; then the turn is free.
--
-- KEYS
--   1 health  hash: instant of the latest turn, progress of the pass that is under way, counts of the latest pass
-- ARGV
--   1 now       epoch ms
--   2 interval  ms: between two turns
-- Returns
--   false: another node has had the turn; else the stored progress, empty at the beginning of a pass
-- Cost: O(1).

local health, now, interval = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local taken_at = tonumber(string.match(redis.call('HGET', health, 'turn_at') or '', '^%d+$')) or 0
if now >= taken_at and now - taken_at < interval then return false end
redis.call('HSET', health, 'turn_at', string.format('%.0f', now))
return redis.call('HGET', health, 'progress') or ''
