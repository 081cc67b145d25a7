-- Store how far an operation is, and prolong, release or end the lease of its carrier.
--
-- Guarantee: nothing is written unless the fence is that of the latest carrier and the operation is open. An operation
-- that ended keeps its document until `kept_until`.
--
-- KEYS
--   1 operations       sorted set: operation id -> instant (epoch ms) after which it is not listed; +inf while open
--   2 open_operations  sorted set: id of an open operation -> instant (epoch ms) until which its carrier has it
--   3 operation        hash: of this operation
-- ARGV
--   1 id          text
--   2 fence       count
--   3 progress    bytes
--   4 state       text: 'running', or the state in which it ended
--   5 until       epoch ms: end of the carrier's lease; 0 releases it
--   6 ended       epoch ms: when it ended; ignored while it is running
--   7 kept_until  epoch ms: likewise, when its document expires
-- Returns
--   'ok'; 'cancelled' if a client cancelled the operation; 'lost' if nothing was written
-- Cost: O(log(operations)).

local operations, open_operations, operation = KEYS[1], KEYS[2], KEYS[3]
local id, state = ARGV[1], ARGV[4]

local found = redis.call('HMGET', operation, 'fence', 'cancelled_at')
if found[1] ~= ARGV[2] or not redis.call('ZSCORE', open_operations, id) then return 'lost' end
redis.call('HSET', operation, 'progress', ARGV[3])
if state == 'running' then
  redis.call('ZADD', open_operations, ARGV[5], id)
  return found[2] and 'cancelled' or 'ok'
end
redis.call('HSET', operation, 'state', state, 'ended_at', ARGV[6])
redis.call('ZREM', open_operations, id)
redis.call('ZADD', operations, ARGV[7], id)
redis.call('PEXPIRE', operation, string.format('%.0f', ARGV[7] - ARGV[6]))
return 'ok'
