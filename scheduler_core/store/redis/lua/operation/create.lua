-- needs: deadline
-- Store a new operation, carried by the process that creates it.
--
-- Guarantee: at most `most_open` operations are open. Sent again with the same id, it changes nothing. Of the
-- operations that ended, the latest `most_kept` are listed; each document expires by itself. The first write needs
-- memory, so that a full Redis refuses the operation as a whole.
--
-- KEYS
--   1 operations       sorted set: operation id -> instant (epoch ms) after which it is not listed; +inf while open
--   2 open_operations  sorted set: id of an open operation -> instant (epoch ms) until which its carrier has it
--   3 operation        hash: of this operation
-- ARGV
--   1 id             text
--   2 spec           bytes: what it does
--   3 progress       bytes
--   4 carrier        text: the process that works on it
--   5 now            epoch ms
--   6 until          epoch ms: end of the carrier's lease
--   7 most_open      count
--   8 most_kept      count
--   last deadline    epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', or 'full' if too many operations are open
-- Cost: O(removed × log(operations)).

local operations, open_operations, operation = KEYS[1], KEYS[2], KEYS[3]
local id, now, most_kept = ARGV[1], ARGV[5], tonumber(ARGV[8])

if redis.call('EXISTS', operation) == 1 then return 'ok' end
if redis.call('ZCARD', open_operations) >= tonumber(ARGV[7]) then return 'full' end
redis.call('HSET', operation, 'spec', ARGV[2], 'progress', ARGV[3], 'carrier', ARGV[4], 'fence', '1', 'state', 'running')
redis.call('ZADD', open_operations, ARGV[6], id)
redis.call('ZADD', operations, '+inf', id)
redis.call('ZREMRANGEBYSCORE', operations, '-inf', now)
local ended = redis.call('ZCOUNT', operations, '-inf', '(+inf')
if ended > most_kept then redis.call('ZREMRANGEBYRANK', operations, 0, ended - most_kept - 1) end
return 'ok'
