-- Read jobs as they are stored now, all of one moment: the first of them whose documents fit into `bytes`.
--
-- Guarantee: reads only, at least one job. A script and not a transaction, because a Redis that is out of memory refuses every command of a
-- transaction, and a job must still be seen, and deleted, then.
--
-- KEYS
--   1 jobs    hash, job id to definition
--   2 states  hash, job id to state
--   3 leases  hash, job id to lease
--   4 meta    hash, downtimes and their count, store id
--   5 children sorted set, units of runs that overlap, at score 0
-- ARGV
--   1    bytes  of definitions and states that the reply may hold
--   2... ids, at most 1000
-- Returns
--   {downtimes, store id or false, row, row, ...}, a row for each of the first ids, where
--   row = {definition or false, state or false, lease or false, number of children where there is no definition}
--   downtimes = how many were ever recorded, a space, and those that are kept
-- Cost: O(ids); a command, two for every 8 jobs read, and one for each job that there is not. Reads at most `bytes` and 8
-- documents more, about 1 ms per MiB (a single HMGET of all takes up to 15 times as long: its reply grows by copying).

local jobs, states, leases, meta, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local facts = redis.call('HMGET', meta, 'downtimes', 'store_id', 'downtime_count')
local bytes, READ_AT_ONCE = tonumber(ARGV[1]), 8
local reply, read, size = {(facts[3] or '0') .. ' ' .. (facts[1] or ''), facts[2]}, 1, 0
while read < #ARGV and size < bytes do
  local first, last = read + 1, math.min(read + READ_AT_ONCE, #ARGV)
  local definitions = redis.call('HMGET', jobs, unpack(ARGV, first, last))
  local positions = redis.call('HMGET', states, unpack(ARGV, first, last))
  local held = redis.call('HMGET', leases, unpack(ARGV, first, last))
  for i = 1, #definitions do
    size = size + #(definitions[i] or '') + #(positions[i] or '')
    if size > bytes and read > 1 then break end
    local open = 0
    read = read + 1
    if not definitions[i] then
      open = redis.call('ZLEXCOUNT', children, '[' .. ARGV[read] .. '\31', '(' .. ARGV[read] .. '\32')
    end
    reply[1 + read] = {definitions[i], positions[i], held[i], open}
  end
end
return reply
