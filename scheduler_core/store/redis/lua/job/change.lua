-- needs: deadline record lists index events mark
-- Apply clients' changes of jobs and child runs: upsert, delete, pause, resume, run now, callbacks.
--
-- Guarantee: nothing of a job is written unless its state and lease are those that the caller planned from; each job
-- succeeds or fails alone. While a node holds the lease, the due set is not changed: the settle of the run sets the
-- next wake-up.
--
-- KEYS
--   1 due        sorted set: claim key -> next wake-up
--   2 jobs       hash: claim key -> definition
--   3 states     hash: claim key -> state
--   4 leases     hash: claim key -> lease
--   5 ids        sorted set: every job id at score 0
--   6 retrying   sorted set: claim key -> start of its run that waits for a retry or a callback
--   7 children   sorted set: the claim key of every child run, at score 0
--   8 answers    hash: idempotency key -> answer
--   9 answered   sorted set: idempotency key -> instant (epoch ms) at which its answer may be deleted
--   10 to 17     keys of lib/record.lua
--   18 events    stream: see lib/events.lua
--   then for each change
--   * history    list: of its job
--   * failures   list: of its job
--   then the sets of the index that `index_writes` names
--   ** index     sorted set: job id -> score (model/index.py)
-- ARGV
--   1 history_kept    count: entries kept in a history
--   2 failures_kept   count: entries kept of those that left it and did not succeed
--   3 retention       ms: after the last entry, until both lists expire
--   4 channel         text: where nodes listen for earlier wake-ups
--   5 answer_key      text: idempotency key; empty: none. With a key, there is one change
--   6 answer          bytes: to store under that key
--   7 now             epoch ms
--   8 answer_until    epoch ms: how long the answer is kept, unless there are more than MOST_ANSWERS
--   9 index_writes    bytes: msgpack: the writes to the index (lib/index.lua); empty: none
--   10 events         bytes: msgpack: for each change an array of its events; empty: no listener is known
--   11 mark           bytes: msgpack: the mark of a settled run (lib/mark.lua); empty: none. With it, there is one change
--   then for each change, at most 250, no claim key twice
--   * claim_key       text
--   * expected_tag    bytes: the 8-byte tag of the stored state; empty: none stored
--   * expected_lease  bytes: as stored; empty: none
--   * definition      bytes: to store; empty: unchanged
--   * operation       text: 'save', or 'remove' to delete the job; with 'revoke_' before it, the lease is removed too
--   * state           bytes: to store, tag first; empty with 'remove': leave no tombstone
--   * wake            score: in the due set
--   * retrying_since  score: in `retrying`; '-': the job leaves it; empty: unchanged
--   * n               count: records that follow, six arguments each (lib/record.lua)
--   last deadline     epoch ms or empty: see lib/deadline.lua
-- Returns
--   for each change: 'ok'; 'changed' if the job is not what the caller planned from, or an answer is stored under the
--   key, or the marked run has another record; {error} if the list of its job's history has the wrong type (nothing
--   of the job was written)
--   then 'unwatched' if `events` was given and no client listens
--   only 'watched' if `events` was empty and a client listens: nothing was done, send it again with events
-- Cost: O(changes × log(claim keys)); two to seven commands, and one or more per change.

local due, jobs, states, leases, ids, retrying, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local channel = ARGV[4]
local FIELDS, RECORD, FIRST, LISTS, MOST_ANSWERS = 9, 6, 12, 17, 100000
local answers, answered = KEYS[8], KEYS[9]
local key, now = ARGV[5], ARGV[7]
local book = open_book(10, tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3])

-- No claim key occurs twice, so all changes are checked before the first is written, and writes are sent together.
local claim_keys, places = {}, {}
local at = FIRST
while at <= #ARGV do
  claim_keys[#claim_keys + 1], places[#places + 1] = ARGV[at], at
  at = at + FIELDS + RECORD * ARGV[at + FIELDS - 1]
end
if #claim_keys == 0 then return {} end
if ARGV[10] == '' and redis.call('EXISTS', KEYS[18]) == 1 then return {'watched'} end
if key ~= '' then
  local until_ms = redis.call('ZSCORE', answered, key)
  if until_ms and tonumber(until_ms) > tonumber(now) then return {'changed'} end
end
local mark, is_outdated = read_mark(ARGV[11], KEYS[10])
if is_outdated then return {'changed'} end
local stored_states = redis.call('HMGET', states, unpack(claim_keys))
local held = redis.call('HMGET', leases, unpack(claim_keys))
-- If one of these keys has the wrong type, raise the error before anything is written.
redis.call('ZCARD', ids)
redis.call('ZCARD', due)
redis.call('ZCARD', children)

local defined, listed, saved, wakes, wake_of = {}, {}, {}, {}, {}
local function put(list, a, b)
  list[#list + 1] = a
  list[#list + 1] = b
end
local function send(command, key, list)
  if #list > 0 then redis.call(command, key, unpack(list)) end
end

local function apply(i, place)
  local id, expected_tag, expected_lease, definition, operation, state, wake, since, n = unpack(ARGV, place, place + 8)
  local is_child = string.find(id, '\31', 1, true)
  local stored, lease = stored_states[i], held[i] or ''
  if (stored and string.sub(stored, 1, 8) or '') ~= expected_tag or lease ~= expected_lease then
    return 'changed'
  end

  if n ~= '0' then
    local length = redis.pcall('LLEN', KEYS[LISTS + 2 * i])
    if type(length) ~= 'number' then return {length.err} end
  end

  if string.sub(operation, 1, 7) == 'revoke_' then
    operation = string.sub(operation, 8)
    redis.call('HDEL', leases, id)
    lease = ''
  end

  if operation == 'remove' then
    redis.call('HDEL', jobs, id)
    redis.call('ZREM', is_child and children or ids, id)
    if state == '' then
      redis.call('HDEL', states, id)
    else
      put(saved, id, state)
    end
    if lease == '' and state == '' then redis.call('ZREM', due, id) end
    -- A tombstone whose run the runner has taken: it wakes when that run counts as lost.
    if lease == '' and state ~= '' then put(wakes, wake, id) end
  else
    if definition ~= '' then
      put(defined, id, definition)
      if not is_child then put(listed, 0, id) end
    end
    put(saved, id, state)
    if lease == '' then
      put(wakes, wake, id)
      wake_of[id] = wake
    end
  end
  return 'ok'
end

local replies = {}
for i, place in ipairs(places) do replies[i] = apply(i, place) end
send('HSET', jobs, defined)
send('ZADD', ids, listed)
send('HSET', states, saved)
send('ZADD', due, wakes)
if #wakes > 0 then
  local first = wake_of[redis.call('ZRANGE', due, 0, 0)[1]]
  if first then redis.call('PUBLISH', channel, first) end
end

for i, place in ipairs(places) do
  if replies[i] == 'ok' then
    local since = ARGV[place + 7]
    if since == '-' then
      redis.pcall('ZREM', retrying, claim_keys[i])
    elseif since ~= '' then
      redis.pcall('ZADD', retrying, since, claim_keys[i])
    end
    book.add(KEYS[LISTS + 2 * i], KEYS[LISTS + 1 + 2 * i], ARGV, place + FIELDS, tonumber(ARGV[place + FIELDS - 1]))
  end
end
if mark and replies[1] == 'ok' then write_mark(mark, KEYS[10], KEYS[11], KEYS[17], KEYS[LISTS + 2], KEYS[LISTS + 3]) end
book.flush()
write_index(ARGV[9], LISTS + 1 + 2 * #places, claim_keys, replies, 0)

-- Drop the lists of removed jobs whose records were all trimmed before.
for i, place in ipairs(places) do
  if replies[i] == 'ok' and string.find(ARGV[place + 4], 'remove', 1, true) then
    drop_lists(jobs, KEYS[10], string.match(claim_keys[i], '^[^\31]*'), KEYS[LISTS + 2 * i], KEYS[LISTS + 1 + 2 * i])
  end
end

if key ~= '' and replies[1] == 'ok' then
  redis.call('HSET', answers, key, ARGV[6])
  redis.call('ZADD', answered, ARGV[8], key)
  local old = redis.call('ZRANGEBYSCORE', answered, '-inf', now, 'LIMIT', 0, 100)
  if #old == 0 and redis.call('ZCARD', answered) > MOST_ANSWERS then old = redis.call('ZRANGE', answered, 0, 0) end
  if #old > 0 then
    redis.call('HDEL', answers, unpack(old))
    redis.call('ZREM', answered, unpack(old))
  end
end
if not append_events(KEYS[18], ARGV[10], replies) then replies[#replies + 1] = 'unwatched' end
return replies
