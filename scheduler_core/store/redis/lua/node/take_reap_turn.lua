-- Take the turn to look for dead nodes, which one node gets in each interval.
--
-- Guarantee: leases need to be examined only if this returns 2 or 3. A node that died since the latest complete sweep
-- is found by the heartbeats of the nodes alone, however many leases exist. An audit finds the rest: leases of unknown
-- nodes, and claimed jobs without a lease. A stored instant ahead of `now` was written before Redis's clock was set
-- back; then an audit is due.
--
-- KEYS
--   1 nodes  sorted set: node id -> last heartbeat
--   2 meta   hash: instants of the latest turn, sweep and audit
-- ARGV
--   1 now         epoch ms
--   2 dead_after  ms: a node without a heartbeat for this long is dead
--   3 interval    ms: between two turns
--   4 audit       ms: between two audits
-- Returns
--   0: another node has had the turn; 1: nothing to do; 2: a node has died; 3: an audit is due
-- Cost: O(log(nodes)).

local nodes, meta = KEYS[1], KEYS[2]
local now, dead_after, interval, audit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local facts = redis.call('HMGET', meta, 'reaped_at', 'swept_until', 'audited_at')
-- Returns a stored instant; 0 if the text is no number.
local function instant(text)
  local at = tonumber(string.match(text or '', '^%d+$'))
  return at and at < 9e15 and at or 0
end
local reaped_at, swept_until, audited_at = instant(facts[1]), instant(facts[2]), instant(facts[3])
if now >= reaped_at and now - reaped_at < interval then return 0 end
redis.call('HSET', meta, 'reaped_at', string.format('%.0f', now))
if now < reaped_at or now < audited_at or now - audited_at >= audit then return 3 end
local dead = redis.call('ZCOUNT', nodes, string.format('%.0f', swept_until), '(' .. string.format('%.0f', now - dead_after))
return dead > 0 and 2 or 1
