-- Count the jobs that nodes hold, and those among them that they hold ahead of their wake-ups.
--
-- Guarantee: reads only.
--
-- KEYS
--   1 due     sorted set: claim key -> next wake-up
--   2 leases  hash: claim key -> lease
-- ARGV
--   1 now    epoch ms
--   2 first  score: of the first claim that may be ahead of its wake-up
--   3 last   score: of the last one
--   4 limit  count: leases to examine, at most 1000
-- Returns
--   {jobs held, jobs held ahead}; with more than `limit` claims to examine, all of these count as held ahead
-- Cost: O(log(jobs) + limit); three commands.

local due, leases = KEYS[1], KEYS[2]
local now, first, last, limit = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local CLAIMED, SUSPECTED = '1000000000000000', '(2000000000000000'

local held = redis.call('ZCOUNT', due, CLAIMED, SUSPECTED)
local recent = redis.call('ZCOUNT', due, first, last)
if recent == 0 or recent > limit then return {held, recent} end
local ahead = 0
for _, row in ipairs(redis.call('HMGET', leases, unpack(redis.call('ZRANGEBYSCORE', due, first, last)))) do
  local node, decided_at = string.match(row or '', '^%S+ (%S+) %d+ (%d+) ')
  if node and node ~= '-' and tonumber(decided_at) > now then ahead = ahead + 1 end
end
return {held, ahead}
