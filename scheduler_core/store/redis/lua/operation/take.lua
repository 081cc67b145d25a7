-- Give an open operation without a carrier to a process.
--
-- Guarantee: a process takes an operation only if it is open and the lease of its last carrier is over, and gets a
-- higher fence than every earlier carrier. If the document is gone, the operation is removed from the lists.
--
-- KEYS
--   1 operations       sorted set: operation id -> instant (epoch ms) after which it is not listed; +inf while open
--   2 open_operations  sorted set: id of an open operation -> instant (epoch ms) until which its carrier has it
--   3 operation        hash: of this operation
-- ARGV
--   1 id       text
--   2 carrier  text: the process that works on it
--   3 now      epoch ms
--   4 until    epoch ms: end of the carrier's lease
-- Returns
--   {fence, spec, progress, cancelled_at or ''}; {} if the operation is not open, or another process has it
-- Cost: O(log(open operations)).

local operations, open_operations, operation = KEYS[1], KEYS[2], KEYS[3]
local id, now = ARGV[1], tonumber(ARGV[3])

local until_ms = redis.call('ZSCORE', open_operations, id)
if not until_ms or tonumber(until_ms) > now then return {} end
local found = redis.call('HMGET', operation, 'spec', 'progress', 'cancelled_at')
if not found[1] or not found[2] then
  redis.call('ZREM', open_operations, id)
  redis.call('ZREM', operations, id)
  return {}
end
local fence = redis.call('HINCRBY', operation, 'fence', 1)
redis.call('HSET', operation, 'carrier', ARGV[2])
redis.call('ZADD', open_operations, ARGV[4], id)
return {fence, found[1], found[2], found[3] or ''}
