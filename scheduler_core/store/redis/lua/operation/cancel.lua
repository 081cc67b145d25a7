-- needs: deadline
-- Cancel an open operation: at once if no process has it, else by a mark that its carrier finds with its next save.
--
-- Guarantee: after this, no process takes the operation to work on it, except the one that stores its end.
--
-- KEYS
--   1 operations       sorted set: operation id -> instant (epoch ms) after which it is not listed; +inf while open
--   2 open_operations  sorted set: id of an open operation -> instant (epoch ms) until which its carrier has it
--   3 operation        hash: of this operation
-- ARGV
--   1 id             text
--   2 now            epoch ms
--   3 kept_until     epoch ms: when its document expires if it ends now
--   last deadline    epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok'; 'ended' if the operation is not open; 'missing'
-- Cost: O(log(operations)).

local operations, open_operations, operation = KEYS[1], KEYS[2], KEYS[3]
local id, now, kept_until = ARGV[1], ARGV[2], ARGV[3]

if redis.call('EXISTS', operation) == 0 then return 'missing' end
local until_ms = redis.call('ZSCORE', open_operations, id)
if not until_ms then return 'ended' end
redis.call('HSETNX', operation, 'cancelled_at', now)
if tonumber(until_ms) > tonumber(now) then return 'ok' end
redis.call('HINCRBY', operation, 'fence', 1)
redis.call('HSET', operation, 'state', 'cancelled', 'ended_at', now)
redis.call('ZREM', open_operations, id)
redis.call('ZADD', operations, kept_until, id)
redis.call('PEXPIRE', operation, string.format('%.0f', kept_until - now))
return 'ok'
