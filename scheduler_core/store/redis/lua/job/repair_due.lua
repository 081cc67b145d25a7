-- Correct entries of the due set whose score is impossible, and add missing entries. Such jobs would never fire.
--
-- Guarantee: such a job becomes due now, and its claim decides from its state when it is really due. If a node holds
-- the job, it counts as claimed now. Everything else stays as it is, so this may run at any time, on any number of
-- nodes.
--
-- KEYS
--   1 due       sorted set: claim key -> next wake-up
--   2 ids       sorted set: every job id at score 0
--   3 children  sorted set: the claim key of every child run, at score 0
--   4 leases    hash: claim key -> lease
-- ARGV
--   1 now    epoch ms
--   2 first  count: rank of the first id whose entry is looked for
--   3 page   count: ids to examine, and scores of each kind to correct, at most 1000
-- Returns
--   {rank of the next id, 0 after the last, claim key, claim key, ...} with the claim keys of corrected entries
-- Cost: O(page × log(jobs)); eight commands when nothing is wrong.

local due, ids, children, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, first, page = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- Between the last fire time of the calendar (the year 9999) and the scores of claimed jobs, and between and above the
-- scores of jobs that only a client can wake (store/keys.py).
local IMPOSSIBLE = {
  {'-inf', '(0'},
  {'(253402300800000', '(1000000000000000'},
  {'(4000000000000000', '(5000000000000000'},
  {'(5000000000000000', '(6000000000000000'},
  {'(6000000000000000', '+inf'},
}

local reply, wakes = {0}, {}
local function put_right(claim_key)
  local holder = string.match(redis.call('HGET', leases, claim_key) or '', '^%S+ (%S+)')
  reply[#reply + 1] = claim_key
  wakes[#wakes + 1] = holder and holder ~= '-' and string.format('%.0f', 1e15 + now) or now
  wakes[#wakes + 1] = claim_key
end
for _, range in ipairs(IMPOSSIBLE) do
  for _, claim_key in ipairs(redis.call('ZRANGEBYSCORE', due, range[1], range[2], 'LIMIT', 0, page)) do
    put_right(claim_key)
  end
end
for _, all in ipairs({ids, children}) do
  local some = redis.call('ZRANGE', all, first, first + page - 1)
  if #some == page then reply[1] = first + page end
  if #some > 0 then
    local scores = redis.call('ZMSCORE', due, unpack(some))
    for i, claim_key in ipairs(some) do
      if not scores[i] then put_right(claim_key) end
    end
  end
end
for i = 1, #wakes, 1000 do redis.call('ZADD', due, unpack(wakes, i, math.min(i + 999, #wakes))) end
return reply
