-- Say into how many shards the store is divided; on the very first start, decide it.
--
-- Guarantee: once the number is stored it never changes. A store from the time before there were shards has one.
--
-- KEYS (of the first shard)
--   1 meta  hash, with the number of shards
--   2 jobs  hash, job id to definition
-- ARGV
--   1 number  count of shards to begin with
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
