-- needs: record lists lease index events
-- Settle a batch of claimed jobs: write the records, set the next wake-up, release the lease.
--
-- A claim key is a job's id, or the id of a child run: the job's id, 0x1F and the run's id.
--
-- Guarantee: a job is changed only if its lease carries the caller's fence and node, and only if its state is the one
-- that the caller planned from. Both are checked in the step that writes, so no fire time is lost or doubled in
-- between. Running the same settle twice changes nothing the second time. The first write frees memory (HDEL); after
-- it, a full Redis lets the script finish and record how runs ended. If a history list has the wrong type, its job is
-- settled without a history entry.
--
-- KEYS
--   1 due       sorted set: claim key -> next wake-up
--   2 jobs      hash: claim key -> definition
--   3 states    hash: claim key -> state
--   4 leases    hash: claim key -> lease
--   5 ids       sorted set: every job id at score 0
--   6 retrying  sorted set: claim key -> start of its run that waits for a retry or a callback
--   7 children  sorted set: the claim key of every child run, at score 0
--   8 suspects  sorted set: claim key -> losses (job/claim)
--   9 to 16     keys of lib/record.lua
--   17 events   stream: see lib/events.lua
--   then for each settlement
--   * history   list: of its job
--   * failures  list: of its job
--   then the sets of the index that `index_writes` names
--   ** index    sorted set: job id -> score (model/index.py)
-- ARGV
--   1 history_kept    count: entries kept in a history
--   2 failures_kept   count: entries kept of those that left it and did not succeed
--   3 retention       ms: after the last entry, until both lists expire
--   4 settlements     msgpack: an array that holds an array for each settlement
--   5 index_writes  bytes: msgpack: the writes to the index (lib/index.lua); empty: none
--   6 events          bytes: msgpack: for each settlement an array of its events; empty: no listener is known
--   then in the array of each settlement
--   * claim_key       text
--   * holder          text: fence and node of the lease, each followed by a space
--   * expected_tag    bytes: the 8-byte tag of the state that the caller planned from; empty: none stored
--   * operation       text: see below
--   * state           bytes: to store, tag first
--   * wake            score: in the due set
--   * retrying_since  score: in `retrying`; '-': the job leaves it; empty: unchanged
--   * extend          0 or 1: the lists' lifetime begins again; 0: it did lately
--   * n               count: records that follow, six fields each (lib/record.lua)
--   then with 'spawn' and 'spawn_last'
--   ** child          text: claim key of the child run
--   ** child_wake     epoch ms
--   ** child_state    bytes: tag first
--   ** child_limit    count: child runs that the job may have at once
--   operation: 'save'    store the state
--              'spawn'   store the state and create a child run with the job's definition and a state of its own
--              'remove'  remove the job: it is finished or was deleted. A `state` takes the place of its own
--              'spawn_last' both: create the child run and remove the job
--              'release' leave the state as it is
--              'return'  release the job unfinished, to be claimed again with the same run: when it was due, or at
--                        `wake` if that is not 0. A `state` of a letter and an instant (epoch ms) notes the claim as
--                        lost, with the letter as its cause (lib/lease.lua): its request may have been sent then
-- Returns
--   for each settlement: 'ok'; 'done' if this same settlement was applied before; 'stale' if another node has the
--   lease; 'full' if the job has as many child runs as it may have (nothing is changed, the lease stays); {definition
--   or false, state or false} if the job was changed since; 'later' if it was and the reply already holds 2 MiB of
--   these (nothing is changed, send it again)
-- Cost: O(log(claim keys)); one command per settlement with records, or two if its lists' lifetime begins again (more if
-- its history is full); eight to twenty per batch.

local due, jobs, states, leases, ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local retrying, children, suspects = KEYS[6], KEYS[7], KEYS[8]
local CHILD, AFTER_CHILD, FIELDS, RECORD, OF_CHILD, REPLY_BYTES = '\31', '\32', 9, 6, 4, 2097152
local book = open_book(9, tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3])

-- One argument for all settlements: Redis spends more on an argument of its own than on a field of this array.
local items = cmsgpack.unpack(ARGV[4])
if #items == 0 then return {} end

-- Read the leases and states of the whole batch with two commands. A claim key that occurs twice is read again.
local claim_keys = {}
for i = 1, #items do claim_keys[i] = items[i][1] end
local held = redis.call('HMGET', leases, unpack(claim_keys))
local stored_states = redis.call('HMGET', states, unpack(claim_keys))

-- The writes, collected command by command; leases are freed first. `n` is the length of a list.
local freed, released, saved, wakes, retries, defined, born
local gone, gone_ids, gone_children, not_due, not_retrying, cleared
local function begin()
  freed, released, saved, wakes, retries, defined, born = {n = 0}, {n = 0}, {n = 0}, {n = 0}, {n = 0}, {n = 0}, {n = 0}
  gone, gone_ids, gone_children, not_due, not_retrying, cleared = {n = 0}, {n = 0}, {n = 0}, {n = 0}, {n = 0}, {n = 0}
end
local function put(list, a, b)
  local n = list.n + 1
  list[n] = a
  if b ~= nil then
    n = n + 1
    list[n] = b
  end
  list.n = n
end
local function send(command, key, list)
  if list.n > 0 then redis.call(command, key, unpack(list, 1, list.n)) end
end
-- For keys from which only lists of jobs and runs are made: a wrong type must not stop a settle half way.
local function try(command, key, list)
  if list.n > 0 then redis.pcall(command, key, unpack(list, 1, list.n)) end
end
local function write()
  send('HDEL', leases, freed)
  send('HDEL', jobs, gone)
  send('HDEL', states, gone)
  try('ZREM', ids, gone_ids)
  try('ZREM', children, gone_children)
  send('ZREM', due, not_due)
  try('ZREM', retrying, not_retrying)
  try('ZREM', suspects, cleared)
  send('HSET', leases, released)
  send('HSET', jobs, defined)
  send('HSET', states, saved)
  send('ZADD', due, wakes)
  try('ZADD', retrying, retries)
  send('ZADD', children, born)
  begin()
end
begin()

local replies, seen, answered = {}, {}, 0
for i = 1, #items do
  local item = items[i]
  local id, holder, expected, operation, state, wake, since, _, n = unpack(item, 1, FIELDS)
  local child, child_wake, child_state, child_limit
  local remove = operation == 'remove' or operation == 'spawn_last'
  if operation == 'spawn' or operation == 'spawn_last' then
    child, child_wake, child_state, child_limit = unpack(item, FIELDS + RECORD * n + 1, FIELDS + RECORD * n + OF_CHILD)
  end
  local lease, stored = held[i], stored_states[i]
  if seen[id] or child then
    write()
    lease, stored = redis.call('HGET', leases, id), redis.call('HGET', states, id)
  end
  seen[id] = true

  local tag = stored and string.sub(stored, 1, 8) or ''
  local reply
  -- Compare the node too: a Redis that lost its last writes in a crash issues the same fences again.
  if not lease or string.find(lease, holder, 1, true) ~= 1 then
    local done
    if operation == 'return' then
      done = lease and string.match(lease, '^(%S+) %-') == string.match(holder, '^%S+')
    elseif state == '' then
      done = not lease and not stored
    else
      done = tag == string.sub(state, 1, 8)
    end
    reply = done and 'done' or 'stale'
  elseif operation == 'return' then
    local found = read_lease(lease)
    if found then
      if state ~= '' then add_lost_claim(found, tonumber(string.sub(state, 2)), string.sub(state, 1, 1)) end
      found.node = '-'
      put(freed, id)
      put(released, id, write_lease(found))
      put(wakes, wake ~= '0' and wake or tonumber(found.score) and found.score or '0', id)
      reply = 'ok'
    else
      reply = 'stale' -- the reaper voids a lease that cannot be read
    end
  elseif tag ~= expected and answered >= REPLY_BYTES then
    reply = 'later'
  elseif tag ~= expected then
    reply = {redis.call('HGET', jobs, id), stored}
    answered = answered + #(reply[1] or '') + #(stored or '')
  else
    local definition = child and redis.call('HGET', jobs, id)
    if child and not definition then
      reply = {false, stored}
    elseif child and (
      redis.call('ZLEXCOUNT', children, '[' .. id .. CHILD, '(' .. id .. AFTER_CHILD) >= tonumber(child_limit)
      or string.find(child, CHILD .. '~', 1, true)
      and redis.call('ZLEXCOUNT', children, '[' .. id .. CHILD .. '~', '(' .. id .. AFTER_CHILD) > 0) then
      reply = 'full'
    else
      put(freed, id)
      if string.find(lease, '~', 1, true) then put(cleared, id) end -- it was lost before, so it may be a suspect
      if remove then
        put(gone, id)
        put(not_due, id)
        if state ~= '' then
          put(saved, id, state)
          put(wakes, wake, id)
        end
        if string.find(id, CHILD, 1, true) then put(gone_children, id) else put(gone_ids, id) end
      else
        if operation ~= 'release' then put(saved, id, state) end
        if stored or operation ~= 'release' then put(wakes, wake, id) else put(not_due, id) end
      end
      if since == '-' then put(not_retrying, id) elseif since ~= '' then put(retries, since, id) end
      if child then
        put(defined, child, definition)
        put(saved, child, child_state)
        put(wakes, child_wake, child)
        put(born, 0, child)
      end
      reply = 'ok'
    end
  end
  replies[i] = reply
end
write()

for i = 1, #items do
  local item = items[i]
  if replies[i] == 'ok' and item[9] > 0 then
    book.add(KEYS[16 + 2 * i], KEYS[17 + 2 * i], item, FIELDS + 1, item[9], item[8] == 0)
  end
end
book.flush()
write_index(ARGV[5], 17 + 2 * #items, claim_keys, replies, 0)

-- Drop the lists of removed jobs whose records were all trimmed before.
for i = 1, #items do
  local operation = items[i][4]
  if replies[i] == 'ok' and (operation == 'remove' or operation == 'spawn_last') then
    drop_lists(jobs, KEYS[9], string.match(claim_keys[i], '^[^' .. CHILD .. ']*'), KEYS[16 + 2 * i], KEYS[17 + 2 * i])
  end
end
append_events(KEYS[17], ARGV[6], replies)
return replies
