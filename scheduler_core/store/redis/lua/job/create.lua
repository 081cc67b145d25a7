-- needs: deadline index events
-- Create those of a batch of jobs under whose ids nothing is stored, and return what is stored under the other ids.
--
-- Guarantee: a job is created only where there is no definition, no state (not even a tombstone), no lease and no open
-- child run of an earlier job under its id. All in one step. Every command that can fail comes before the first write.
--
-- KEYS
--   1 due       sorted set: job id -> next wake-up
--   2 jobs      hash: job id -> definition
--   3 states    hash: job id -> state
--   4 leases    hash: job id -> lease
--   5 ids       sorted set: every job id at score 0
--   6 meta      hash: downtimes and their count, store id, pauses of everything
--   7 children  sorted set: the claim key of every child run, at score 0
--   8 events    stream: see lib/events.lua
--   then the sets of the index that `index_writes` names
--   ** index    sorted set: job id -> score (model/index.py)
-- ARGV
--   1 channel      text: where nodes listen for earlier wake-ups
--   2 index_writes  bytes: msgpack: the writes to the index (lib/index.lua); empty: none
--   3 events       bytes: msgpack: for each job an array of its events; empty: no listener is known
--   then for each job, at most 1000, no id twice
--   * job_id       text
--   * definition   bytes
--   * state        bytes: tag first
--   * wake         score: in the due set
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   {downtimes, store id or false, pauses or false, row, row, ...} with a row for each job: 'ok' if it was created,
--   else as job/read returns it: {definition or false, state or false, lease or false, number of child runs if there is
--   no definition}, or 'large' if the reply already holds 2 MiB of definitions and states
--   downtimes = how many were ever recorded, a space, and those that are kept
--   then 'unwatched' if `events` was given and no client listens
--   or only {'watched'} if `events` was empty and a client listens: nothing was done, send it again with events
-- Cost: O(jobs × log(all jobs)); two commands per 8 jobs, ten to twelve commands, and one per new job while child runs
-- are open.

local due, jobs, states, leases, ids, meta, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local channel = ARGV[1]
local FIELDS, BYTES, READ_AT_ONCE = 4, 2097152, 8

if ARGV[3] == '' and redis.call('EXISTS', KEYS[8]) == 1 then return {'watched'} end
local wanted = {}
for at = 4, #ARGV, FIELDS do wanted[#wanted + 1] = ARGV[at] end
local facts = redis.call('HMGET', meta, 'downtimes', 'store_id', 'downtime_count', 'pauses')
local definitions, positions, size = {}, {}, 0
for first = 1, #wanted, READ_AT_ONCE do
  local last = math.min(first + READ_AT_ONCE - 1, #wanted)
  if size < BYTES then
    local some = redis.call('HMGET', jobs, unpack(wanted, first, last))
    local their = redis.call('HMGET', states, unpack(wanted, first, last))
    for i = 1, #some do
      local own = #(some[i] or '') + #(their[i] or '')
      -- Of a job that does not fit, return only that it exists.
      local fits = own == 0 or size == 0 or size + own <= BYTES
      definitions[first + i - 1] = fits and some[i] or not fits and 'large'
      positions[first + i - 1] = fits and their[i] or not fits and 'large'
      size = size + own
    end
  else
    for i = first, last do
      local stored = redis.call('HEXISTS', jobs, wanted[i]) + redis.call('HEXISTS', states, wanted[i]) > 0
      definitions[i], positions[i] = stored and 'large', stored and 'large'
    end
  end
end
local held = redis.call('HMGET', leases, unpack(wanted))
local may_overlap = redis.call('ZCARD', children) > 0
-- If one of these keys has the wrong type, raise the error before anything is written.
redis.call('ZCARD', ids)
redis.call('ZCARD', due)

local reply = {(facts[3] or '0') .. ' ' .. (facts[1] or ''), facts[2], facts[4]}
local new_jobs, new_states, new_ids, new_wakes, wake_of = {}, {}, {}, {}, {}
local last = 0
for i, id in ipairs(wanted) do
  local definition, open = definitions[i], 0
  if may_overlap and not definition then
    open = redis.call('ZLEXCOUNT', children, '[' .. id .. '\31', '(' .. id .. '\32')
  end
  if definition == 'large' then
    reply[3 + i] = 'large'
  elseif definition or positions[i] or held[i] or open > 0 then
    reply[3 + i] = {definition, positions[i], held[i], open}
  else
    local at, wake = FIELDS * i, ARGV[FIELDS * i + 3]
    new_jobs[last + 1], new_jobs[last + 2] = id, ARGV[at + 1]
    new_states[last + 1], new_states[last + 2] = id, ARGV[at + 2]
    new_ids[last + 1], new_ids[last + 2] = 0, id
    new_wakes[last + 1], new_wakes[last + 2] = wake, id
    wake_of[id] = wake
    last = last + 2
    reply[3 + i] = 'ok'
  end
end

if last > 0 then
  redis.call('HSET', jobs, unpack(new_jobs))
  redis.call('HSET', states, unpack(new_states))
  redis.call('ZADD', ids, unpack(new_ids))
  redis.call('ZADD', due, unpack(new_wakes))
  write_index(ARGV[2], 8, wanted, reply, 3)
  local first = wake_of[redis.call('ZRANGE', due, 0, 0)[1]]
  if first then redis.call('PUBLISH', channel, first) end
end
if ARGV[3] ~= '' and not append_events(KEYS[8], ARGV[3], {unpack(reply, 4)}) then reply[#reply + 1] = 'unwatched' end
return reply
