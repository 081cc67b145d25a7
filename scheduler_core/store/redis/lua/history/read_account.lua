-- Read a job with its history and its open child runs, all in one step.
--
-- Guarantee: reads only. One script, because a settle between two reads would move a run from the state to the history:
-- it would be read twice, or not at all.
--
-- KEYS
--   1 jobs      hash: claim key -> definition
--   2 states    hash: claim key -> state
--   3 leases    hash: claim key -> lease
--   4 meta      hash: downtimes and their count, store id, pauses of everything
--   5 children  sorted set: the claim key of every child run, at score 0
--   6 history   list: of the job
-- ARGV
--   1 job_id  text
--   2 limit   count: child runs, at most 1000
-- Returns
--   {downtimes, store id or false, pauses or false, definition or false, state or false, lease or false,
--    {state or false of each child run}, {entries of the history, oldest first}}
--   downtimes = how many were ever recorded, a space, and those that are kept
-- Cost: O(entries of the history), which is bounded; six commands.

local jobs, states, leases, meta, children, history = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, limit = ARGV[1], ARGV[2]

local facts = redis.call('HMGET', meta, 'downtimes', 'store_id', 'downtime_count', 'pauses')
local claim_keys = redis.call('ZRANGEBYLEX', children, '[' .. id .. '\31', '(' .. id .. '\32', 'LIMIT', 0, limit)
local positions = {}
if #claim_keys > 0 then positions = redis.call('HMGET', states, unpack(claim_keys)) end
local entries = redis.pcall('LRANGE', history, 0, -1) -- a key of the wrong type holds no history
if entries.err then entries = {} end
return {
  (facts[3] or '0') .. ' ' .. (facts[1] or ''), facts[2], facts[4],
  redis.call('HGET', jobs, id), redis.call('HGET', states, id), redis.call('HGET', leases, id),
  positions, entries,
}
