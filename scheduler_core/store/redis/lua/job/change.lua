-- needs: deadline record lists
-- Apply changes of units that no settle brings about, one or many: upsert, delete, pause, resume, run now, what a runner
-- says by callback. A unit is a job, or one run of a job that allows overlap (see job/settle).
--
-- Guarantee: nothing is written of a unit unless its state and lease are those that the caller planned from; what becomes
-- of one unit says nothing about another. While a node holds the lease, the due set is left alone: the settle of its run
-- sets the next wake-up.
--
-- KEYS
--   1 due      sorted set, unit by wake-up
--   2 jobs     hash, unit to definition
--   3 states   hash, unit to state
--   4 leases   hash, unit to lease
--   5 ids      sorted set, all job ids at score 0
--   6 waiting  sorted set, unit by start of its run, for runs that wait for a retry or a completion
--   7 children sorted set, units of runs that overlap, at score 0
--   8 answers  hash, key of a change that is asked for once to the answer given
--   9 answered sorted set, the same keys by the instant (epoch ms) from which on each may be forgotten
--   10...      the eight keys of lib/record.lua, then history and failures list of the job of each unit, in order
-- ARGV
--   1 history   entries kept
--   2 failures  entries kept of those that left the history and did not succeed
--   3 retention ms after the last entry at which both lists are dropped
--   4 channel   where nodes listen for earlier wake-ups
--   5 key       of a change that is asked for once; empty: it may be repeated. With a key, there is one unit
--   6 answer    to keep under that key
--   7 now       epoch ms
--   8 until     epoch ms; how long the answer is kept, unless there are more than MOST_ANSWERS
--   9...        of each unit (at most 250, none twice):
--     id, expected tag (8 bytes; empty: no state is stored), expected lease (as stored; empty: none), definition (to
--     store; empty: leave the stored one), operation, state (to store, tag first; empty with 'remove': leave no
--     tombstone), wake-up (score in the due set), waiting (score of a run that waits; '-': none waits; empty: leave it as
--     it is), n, n records of six (lib/record.lua)
--   operation: 'save', or 'remove' to delete the unit; with 'revoke_' before it, the lease is taken away in the same step
--   last      deadline (lib/deadline.lua)
-- Returns
--   for each unit: 'ok', 'changed' if it is not what the caller planned from (or an answer
--   is kept under the key), or {error} if the list of its job's history
--   holds something else (nothing of the unit was written)
-- Cost: O(units × log(all units)); two to seven commands, and one or more for each unit.

local due, jobs, states, leases, ids, waiting, children = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local channel = ARGV[4]
local FIELDS, RECORD, FIRST, LISTS, MOST_ANSWERS = 9, 6, 9, 16, 100000
local answers, answered, key, now = KEYS[8], KEYS[9], ARGV[5], ARGV[7]
local book = open_book(10, tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3])

-- No unit comes twice, so all can be checked before the first is written. What is saved is written together.
local units, places = {}, {}
local at = FIRST
while at <= #ARGV do
  units[#units + 1], places[#places + 1] = ARGV[at], at
  at = at + FIELDS + RECORD * ARGV[at + FIELDS - 1]
end
if #units == 0 then return {} end
if key ~= '' then
  local until_ms = redis.call('ZSCORE', answered, key)
  if until_ms and tonumber(until_ms) > tonumber(now) then return {'changed'} end
end
local stored_states = redis.call('HMGET', states, unpack(units))
local held = redis.call('HMGET', leases, unpack(units))
-- Raise before anything is written if one of these holds something else.
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
  local id, expected_tag, expected_lease, definition, operation, state, wake, wait, n = unpack(ARGV, place, place + 8)
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
    -- A tombstone whose run the runner has taken: it wakes when that run is to be given up.
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
    local wait = ARGV[place + 7]
    if wait == '-' then
      redis.pcall('ZREM', waiting, units[i])
    elseif wait ~= '' then
      redis.pcall('ZADD', waiting, wait, units[i])
    end
    book.add(KEYS[LISTS + 2 * i], KEYS[LISTS + 1 + 2 * i], place + FIELDS, tonumber(ARGV[place + FIELDS - 1]))
  end
end
book.flush()

-- A job that is gone, and of whose runs nothing is stored any more: they were trimmed while it was there.
for i, place in ipairs(places) do
  if replies[i] == 'ok' and string.find(ARGV[place + 4], 'remove', 1, true) then
    drop_lists(jobs, KEYS[10], string.match(units[i], '^[^\31]*'), KEYS[LISTS + 2 * i], KEYS[LISTS + 1 + 2 * i])
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
return replies
