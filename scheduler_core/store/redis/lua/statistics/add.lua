-- Add what one process counted in a minute to the counts of that minute.
--
-- Guarantee: counts with the same sequence number of a process are added once, so a repetition after a lost answer
-- changes nothing. Counts are added by their names: those of other versions are kept.
--
-- KEYS
--   1 hour  hash: minute (0 to 59) -> counts by name (msgpack), and 'node:' and a process -> its latest sequence number
-- ARGV
--   1 minute    count: 0 to 59
--   2 process   text: id of the process
--   3 sequence  count
--   4 counts    msgpack: map of name -> count, not empty
--   5 kept      ms: how long the hour is kept from now on
-- Returns
--   1; 0 if these counts were added before
-- Cost: O(names).

local hour = KEYS[1]
local minute, process, sequence = ARGV[1], 'node:' .. ARGV[2], tonumber(ARGV[3])

local latest = tonumber(redis.call('HGET', hour, process) or '')
if latest and latest >= sequence then return 0 end
local counts = cmsgpack.unpack(ARGV[4])
-- A stored entry that is no map of numbers is replaced: only a foreign write makes one.
local is_map, stored = pcall(cmsgpack.unpack, redis.call('HGET', hour, minute) or '')
if is_map and type(stored) == 'table' then
  for name, count in pairs(stored) do
    if type(name) == 'string' and type(count) == 'number' then counts[name] = (counts[name] or 0) + count end
  end
end
redis.call('HSET', hour, minute, cmsgpack.pack(counts), process, ARGV[3])
redis.call('PEXPIRE', hour, ARGV[5])
return 1
