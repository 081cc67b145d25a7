-- Read the first of these jobs, as many as fit into `reply_bytes`, in one step.
--
-- Guarantee: reads only, at least one job. A script and not a transaction: a Redis that is out of memory refuses every
-- command of a transaction, and even then a job must be read so that it can be deleted.
--
-- KEYS
--   1 jobs      hash: claim key -> definition
--   2 states    hash: claim key -> state
--   3 leases    hash: claim key -> lease
--   4 meta      hash: downtimes and their count, store id, pauses of everything
--   5 children  sorted set: the claim key of every child run, at score 0
-- ARGV
--   1 reply_bytes  number of bytes: definitions and states that the reply may hold
--   then for each job, at most 1000
--   * claim_key    text
-- Returns
--   {downtimes, store id or false, pauses or false, row, row, ...} with a row for each of the first jobs, where
--   row = {definition or false, state or false, lease or false, number of child runs if there is no definition}
--   downtimes = how many were ever recorded, a space, and those that are kept
-- Cost: O(jobs); one command, two per 8 jobs, and one per job that does not exist. Reads at most `reply_bytes` and 8
-- documents more, about 1 ms per MiB (a single HMGET of all takes up to 15 times as long: its reply grows by copying).

local jobs, states, leases, meta, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local facts = redis.call('HMGET', meta, 'downtimes', 'store_id', 'downtime_count', 'pauses')
local reply_bytes, READ_AT_ONCE = tonumber(ARGV[1]), 8
local reply, read, size = {(facts[3] or '0') .. ' ' .. (facts[1] or ''), facts[2], facts[4]}, 1, 0
while read < #ARGV and size < reply_bytes do
  local first, last = read + 1, math.min(read + READ_AT_ONCE, #ARGV)
  local definitions = redis.call('HMGET', jobs, unpack(ARGV, first, last))
  local positions = redis.call('HMGET', states, unpack(ARGV, first, last))
  local held = redis.call('HMGET', leases, unpack(ARGV, first, last))
  for i = 1, #definitions do
    size = size + #(definitions[i] or '') + #(positions[i] or '')
    if size > reply_bytes and read > 1 then break end
    local open = 0
    read = read + 1
    if not definitions[i] then
      open = redis.call('ZLEXCOUNT', children, '[' .. ARGV[read] .. '\31', '(' .. ARGV[read] .. '\32')
    end
    reply[2 + read] = {definitions[i], positions[i], held[i], open}
  end
end
return reply
