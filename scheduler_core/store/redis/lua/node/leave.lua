-- Remove the entry of a node that stops, and record its last heartbeat as now.
--
-- Guarantee: the time after this heartbeat, while no other node is alive, is downtime at the next start.
--
-- KEYS
--   1 nodes   sorted set: node id -> last heartbeat
--   2 meta    hash: last heartbeat
--   3 claims  hash: node id -> number of its latest claim
--   4 facts   hash: node id -> facts of the node for people
-- ARGV
--   1 node  text: node id
--   2 now   epoch ms
-- Returns
--   number of nodes left
-- Cost: O(log(nodes)).

local nodes, meta, claims, facts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local node, now = ARGV[1], tonumber(ARGV[2])

redis.call('ZREM', nodes, node)
redis.call('HDEL', claims, node)
redis.call('HDEL', facts, node)
local last = tonumber(redis.call('HGET', meta, 'last_beat') or '0') or 0
if last < now then
  redis.call('HSET', meta, 'last_beat', string.format('%.0f', now))
end
return redis.call('ZCARD', nodes)
