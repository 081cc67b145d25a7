-- needs: record lists lease
-- Settle a batch of claimed units: record what happened, set the next wake-up, release the lease. A unit is a job, or
-- one run of a job that allows overlap (a child: its id is the job's, 0x1F, and the run's).
--
-- Guarantee: a unit is changed only if fence and node are those that its lease carries, and only if its state is the
-- one that the caller planned from. Both are checked and acted upon in this one step, so no fire time is lost or doubled
-- in between. Running the same settle twice changes nothing the second time. The first write frees memory (HDEL), after
-- which Redis lets a script finish, so that a full Redis can still be told how a run ended. A history list of the wrong
-- type costs its job the list, and nothing else.
--
-- KEYS
--   1 due      sorted set, unit by wake-up
--   2 jobs     hash, unit to definition
--   3 states   hash, unit to state
--   4 leases   hash, unit to lease
--   5 ids      sorted set, all job ids at score 0
--   6 waiting  sorted set, unit by start of its run, for runs that wait for a retry or a completion
--   7 children sorted set, units of runs that overlap, at score 0
--   8 suspects sorted set, units by losses (job/claim)
--   9...       the eight keys of lib/record.lua, then history and failures list of the job of each unit, in order
-- ARGV
--   1 history   entries kept per job
--   2 failures  entries kept per job of those that left its history and did not succeed
--   3 retention ms after the last entry at which a job's lists are dropped
--   then for each unit of the batch:
--     id, fence and node, expected tag (8 bytes; empty: none stored), operation, state (tag first), wake-up, waiting
--     (empty: leave it alone, '-': it waits no longer, else its score), n, n records of six (lib/record.lua), and with
--     'spawn': child, its wake-up, its state, how many children the job may have
--   operation: 'save'    store the state
--              'spawn'   store the state (empty: remove the unit, it is finished), and make a child: a unit with the job's
--                        definition and a state of its own
--              'remove'  the unit is finished or was deleted: remove it
--              'release' leave the state as it is
--              'return'  hand the unit back unfinished, to be claimed again as the same run: when it was due, or at
--                        the wake-up if that is not 0. A state of a letter and an instant (epoch ms) notes the claim
--                        as lost, with the letter as its cause (lib/lease.lua): its request may have been sent then
-- Returns
--   for each unit: 'ok', 'done' (this very settle was applied before), 'stale' (the fence has passed to another), 'full'
--   (the job has as many children as it may have; nothing was changed, the lease stays), or
--   {definition or false, state or false} if the unit was changed since, or 'later' if it was and the reply already holds
--   2 MiB of these: nothing was changed, send it again
-- Cost: O(log(units)); two commands per unit and two or more for its records, six to twenty per batch.

local due, jobs, states, leases, ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, children, suspects = KEYS[6], KEYS[7], KEYS[8]
local CHILD, AFTER_CHILD, FIELDS, RECORD, OF_CHILD, REPLY_BYTES = '\31', '\32', 8, 6, 4, 2097152
local book = open_book(9, tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3])

-- Two commands read what the whole batch is checked against. A unit that comes twice is read again the second time.
local units, places = {}, {}
local at = 4
while at <= #ARGV do
  units[#units + 1], places[#places + 1] = ARGV[at], at
  at = at + FIELDS + RECORD * ARGV[at + FIELDS - 1] + (ARGV[at + 3] == 'spawn' and OF_CHILD or 0)
end
if #units == 0 then return {} end
local held = redis.call('HMGET', leases, unpack(units))
local stored_states = redis.call('HMGET', states, unpack(units))

-- What is to be written, command by command; freed leases come first.
local freed, handed_back, saved, wakes, waits, defined, born
local gone, gone_ids, gone_children, not_due, not_waiting, cleared
local function begin()
  freed, handed_back, saved, wakes, waits, defined, born = {}, {}, {}, {}, {}, {}, {}
  gone, gone_ids, gone_children, not_due, not_waiting, cleared = {}, {}, {}, {}, {}, {}
end
local function put(list, a, b)
  list[#list + 1] = a
  if b ~= nil then list[#list + 1] = b end
end
local function send(command, key, list)
  if #list > 0 then redis.call(command, key, unpack(list)) end
end
-- For what only lists are made from: a key of the wrong type must not stop a settle half way.
local function try(command, key, list)
  if #list > 0 then redis.pcall(command, key, unpack(list)) end
end
local function write()
  send('HDEL', leases, freed)
  send('HDEL', jobs, gone)
  send('HDEL', states, gone)
  try('ZREM', ids, gone_ids)
  try('ZREM', children, gone_children)
  send('ZREM', due, not_due)
  try('ZREM', waiting, not_waiting)
  try('ZREM', suspects, cleared)
  send('HSET', leases, handed_back)
  send('HSET', jobs, defined)
  send('HSET', states, saved)
  send('ZADD', due, wakes)
  try('ZADD', waiting, waits)
  send('ZADD', children, born)
  begin()
end
begin()

local replies, seen, answered = {}, {}, 0
for i, place in ipairs(places) do
  local id, holder, expected, operation = ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3]
  local state, wake, wait, n = ARGV[place + 4], ARGV[place + 5], ARGV[place + 6], ARGV[place + 7]
  local child, child_wake, child_state, child_limit
  if operation == 'spawn' then
    child, child_wake, child_state, child_limit = unpack(ARGV, place + FIELDS + RECORD * n, place + 11 + RECORD * n)
  end
  local lease, stored = held[i], stored_states[i]
  if seen[id] or child then
    write()
    lease, stored = redis.call('HGET', leases, id), redis.call('HGET', states, id)
  end
  seen[id] = true

  local tag = stored and string.sub(stored, 1, 8) or ''
  local reply
  -- The node as well: a Redis that lost its last writes in a crash gives their fences again.
  if not lease or string.match(lease, '^%S+ %S+') ~= holder then
    local done
    if operation == 'return' then
      done = lease and string.match(lease, '^(%S+) %-') == string.match(holder, '^%S+')
    elseif operation == 'remove' or state == '' then
      done = not lease and not stored
    else
      done = state ~= '' and tag == string.sub(state, 1, 8)
    end
    reply = done and 'done' or 'stale'
  elseif operation == 'return' then
    local found = read_lease(lease)
    if found then
      if state ~= '' then add_lost_claim(found, tonumber(string.sub(state, 2)), string.sub(state, 1, 1)) end
      found.node = '-'
      put(freed, id)
      put(handed_back, id, write_lease(found))
      put(wakes, wake ~= '0' and wake or tonumber(found.score) and found.score or '0', id)
      reply = 'ok'
    else
      reply = 'stale' -- a lease that cannot be read is the reaper's
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
      if string.find(lease, '~', 1, true) then put(cleared, id) end -- it was lost before, and may be a suspect
      if operation == 'remove' or (child and state == '') then
        put(gone, id)
        put(not_due, id)
        if string.find(id, CHILD, 1, true) then put(gone_children, id) else put(gone_ids, id) end
      else
        if operation ~= 'release' then put(saved, id, state) end
        if stored or operation ~= 'release' then put(wakes, wake, id) else put(not_due, id) end
      end
      if wait == '-' then put(not_waiting, id) elseif wait ~= '' then put(waits, wait, id) end
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

for i, place in ipairs(places) do
  if replies[i] == 'ok' then
    book.add(KEYS[15 + 2 * i], KEYS[16 + 2 * i], place + FIELDS, tonumber(ARGV[place + FIELDS - 1]))
  end
end
book.flush()

-- A job that is gone, and of whose runs nothing is stored any more: they were trimmed while it was there.
for i, place in ipairs(places) do
  if replies[i] == 'ok' and (ARGV[place + 3] == 'remove' or ARGV[place + 3] == 'spawn' and ARGV[place + 4] == '') then
    drop_lists(jobs, KEYS[9], string.match(units[i], '^[^' .. CHILD .. ']*'), KEYS[15 + 2 * i], KEYS[16 + 2 * i])
  end
end
return replies
