-- Read the number of shards of the store; on the very first start, store it.
--
-- Guarantee: once stored, the number never changes. A store of a version without shards has one.
--
-- KEYS
--   1 meta  hash: number of shards; of the first shard
--   2 jobs  hash: claim key -> definition; of the first shard
-- ARGV
--   1 number  count: shards of a new store
-- Returns
--   the number of shards
-- Cost: O(1); two to four commands.

local meta, jobs = KEYS[1], KEYS[2]
local number = ARGV[1]

local stored = redis.call('HGET', meta, 'shards')
if stored then return stored end
if redis.call('HEXISTS', meta, 'store_id') == 1 or redis.call('EXISTS', jobs) == 1 then number = '1' end
redis.call('HSET', meta, 'shards', number)
return number
