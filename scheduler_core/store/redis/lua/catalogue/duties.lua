-- Return unfinished operations, and whether the caller has the turn to compare all schedules with their jobs.
--
-- Guarantee: one node gets the turn in each period. If that node dies, another one gets the turn of the next period.
--
-- KEYS
--   1 reserved  sorted set: schedule id -> instant of its reservation (epoch ms)
--   2 deleting  hash: target id -> epoch ms since when it is being deleted
--   3 counters  hash: instant of the latest turn
-- ARGV
--   1 now     epoch ms
--   2 old     ms: younger reservations and deletions are left to the request that works on them
--   3 period  ms: between turns
--   4 limit   count: of each kind
-- Returns
--   {turn (1 or 0), {schedule id, ...}, {target id, ...}}
-- Cost: O(limit + targets being deleted); five commands.

local reserved, deleting, counters = KEYS[1], KEYS[2], KEYS[3]
local now, old, period, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local halves = redis.call('ZRANGEBYSCORE', reserved, '-inf', string.format('%.0f', now - old), 'LIMIT', 0, limit)
local targets = {}
local rows = redis.call('HGETALL', deleting)
for i = 1, #rows, 2 do
  if #targets < limit and (tonumber(rows[i + 1]) or 0) <= now - old then targets[#targets + 1] = rows[i] end
end
local turn = 0
local last = tonumber(redis.call('HGET', counters, 'swept_at') or '0') or 0
-- A turn in the future was recorded before Redis's clock was set back.
if now - last >= period or last > now + period then
  turn = 1
  redis.call('HDEL', counters, 'swept_at') -- frees first, so that a full Redis is swept too
  redis.call('HSET', counters, 'swept_at', string.format('%.0f', now))
end
return {turn, halves, targets}
