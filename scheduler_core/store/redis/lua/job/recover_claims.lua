-- Return the jobs claimed by a call whose reply was lost, and void that call if it is still on its way.
--
-- Guarantee: a claim that arrives after this call finds its number used up and claims nothing. A lease that was reaped
-- since then is not returned. A job that does not fit into `reply_bytes` is released: it is due again, and its next
-- claim continues the same run.
--
-- KEYS
--   1 leases  hash: claim key -> lease
--   2 jobs    hash: claim key -> definition
--   3 states  hash: claim key -> state
--   4 claims  hash: node id -> number of its latest claim
--   5 due     sorted set: claim key -> next wake-up
-- ARGV
--   1 node         text: node id
--   2 token        count: number of the claim
--   3 reply_bytes  number of bytes: definitions and states that the reply may hold; 0: release all
--   4 lowest       score: in the due set, of the jobs that the claim can have taken: 10^15 and its instant
--   5 highest      score: likewise
-- Returns
--   {row, row, ...} with the rows of job/claim
-- Cost: O(jobs claimed between both scores): those of one millisecond; only after a lost reply.

local leases, jobs, states, claims, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local node, token, reply_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3])

if tonumber(token) > (tonumber(redis.call('HGET', claims, node) or '') or 0) then
  redis.call('HDEL', claims, node) -- frees memory first, so that a full Redis accepts the rest
  redis.call('HSET', claims, node, token)
end

local rows, size = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, ARGV[4], ARGV[5])) do
  local lease = redis.call('HGET', leases, id) or ''
  local fence, holder, rest, score, claim = string.match(lease, '^(%d+) (%S+) (%d+ %d+ %d+ (%S+) (%d+)%S*)$')
  if holder == node and claim == token then
    size = size + redis.call('HSTRLEN', jobs, id) + redis.call('HSTRLEN', states, id)
    if size <= reply_bytes or (#rows == 0 and reply_bytes > 0) then
      rows[#rows + 1] = {id, redis.call('HGET', jobs, id), redis.call('HGET', states, id), lease}
    else
      redis.call('HDEL', leases, id) -- frees memory first, so that a full Redis accepts the rest
      redis.call('HSET', leases, id, fence .. ' - ' .. rest)
      if not tonumber(score) or tonumber(score) > 9e15 then score = '0' end -- it was not a wake-up
      redis.call('ZADD', due, score, id)
    end
  end
end
return rows
