-- Read jobs as they are stored now, all of one moment.
--
-- Guarantee: reads only. A script and not a transaction, because a Redis that is out of memory refuses every command of a
-- transaction, and a job must still be seen, and deleted, then.
--
-- KEYS
--   1 jobs    hash, job id to definition
--   2 states  hash, job id to state
--   3 leases  hash, job id to lease
--   4 meta    hash, downtimes and store id
--   5 children sorted set, units of runs that overlap, at score 0
-- ARGV
--   1... ids, at most 1000
-- Returns
--   {downtimes or false, store id or false, row, row, ...}, a row for each id, where
--   row = {definition or false, state or false, lease or false, number of children where there is no definition}
-- Cost: O(ids); four commands, and one for each job that there is not.

local jobs, states, leases, meta, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local facts = redis.call('HMGET', meta, 'downtimes', 'store_id')
local definitions = redis.call('HMGET', jobs, unpack(ARGV, 1))
local positions = redis.call('HMGET', states, unpack(ARGV, 1))
local held = redis.call('HMGET', leases, unpack(ARGV, 1))
local reply = {facts[1], facts[2]}
for i = 1, #ARGV do
  local open = 0
  if not definitions[i] then
    open = redis.call('ZLEXCOUNT', children, '[' .. ARGV[i] .. '\31', '(' .. ARGV[i] .. '\32')
  end
  reply[2 + i] = {definitions[i], positions[i], held[i], open}
end
return reply
