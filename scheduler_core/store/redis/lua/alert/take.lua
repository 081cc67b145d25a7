-- Take or prolong the lease of the node that examines jobs for the alert rules and sends messages.
--
-- Guarantee: of all nodes, one has the lease. It only avoids double work: the versions of the sweep and of the messages
-- decide what is stored. A lease that ends implausibly late was written before Redis's clock was set back.
--
-- KEYS
--   1 alert_outbox  hash: lease, version of the messages, latest finding of each shard that is in a message
-- ARGV
--   1 node   text
--   2 now    epoch ms
--   3 until  epoch ms: end of the lease; 0 releases it
--   4 most   ms: no lease is longer
-- Returns
--   1 if the node has the lease, else 0
-- Cost: O(1).

local alert_outbox = KEYS[1]
local node, now, until_ms, most = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local stored = redis.call('HMGET', alert_outbox, 'node', 'until')
local left = tonumber(stored[2] or '0') - now
if stored[1] ~= node and left > 0 and left <= most then return 0 end
redis.call('HSET', alert_outbox, 'node', node, 'until', until_ms)
return 1
