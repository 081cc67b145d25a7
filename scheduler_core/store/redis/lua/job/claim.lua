-- needs: lease
-- Claim up to `limit` jobs that are due, or become due until `horizon`: give each a lease with a new fence.
--
-- Guarantee: a claimed job is in the claimed part of the due set until it is settled, released or reaped, so no two
-- nodes hold it. A node without a fresh heartbeat gets nothing: other nodes may be reclaiming its leases. A call that
-- arrives after its node has called job/recover_claims for it claims nothing.
--
-- A job whose run was lost with several nodes in a row is a suspect: its run may crash nodes. A due suspect is moved
-- out of the due part. Claims take suspects in groups, for a trial: at most half of all suspects, fewest losses first,
-- and at most half of the group in which each was lost before. So each death halves the group that contains the run
-- that crashes nodes, and harmless runs are settled with the first group that survives.
--
-- A job that is claimed ahead of its wake-up is decided as of the wake-up, which its lease has as the instant of the
-- first claim; the node sends nothing before it. A job that was released ahead of its wake-up is not claimed ahead
-- again: a client is about to change it. Neither is a suspect.
--
-- During a pause of everything nothing is claimed ahead, so a claim under way decides with the pause as it is. A job
-- that was released, and for which nothing was sent, is decided anew once everything was ever paused.
--
-- A late job with an alarm is listed as changed: the alert rules examine it again only because of this.
--
-- KEYS
--   1 due       sorted set: claim key -> next wake-up
--   2 jobs      hash: claim key -> definition
--   3 states    hash: claim key -> state
--   4 leases    hash: claim key -> lease
--   5 meta      hash: fence counter, downtimes, pauses of everything, version of the targets
--   6 nodes     sorted set: node id -> last heartbeat
--   7 claims    hash: node id -> number of its latest claim
--   8 suspects  sorted set: claim key -> losses while it waits; 10^6 is added while it is tried
--   9 changed   sorted set: see lib/index.lua
--   10 alert_alarming  sorted set: the jobs with an alarm
-- ARGV
--   1 now             epoch ms
--   2 limit           count: at most 1000
--   3 node            text: node id
--   4 token           count: number of this claim, larger than that of every earlier claim of the node
--   5 recent          ms: with a backlog, half of the batch goes to jobs that became due in this time
--   6 dead_after      ms: a node without a heartbeat for this long is dead
--   7 downtime_count  count: the downtimes that the node knows
--   8 trial           0 or 1: this call may take suspects, because its process holds none
--   9 suspect_losses  count: from this many lost nodes on a job is a suspect
--   10 reply_bytes    number of bytes: definitions and states that the reply may hold; the first job is returned
--                     whatever its size, and jobs that do not fit stay due
--   11 horizon        epoch ms: at least `now`
--   12 burst          ms: the jobs that become due within this time of the next wake-up are counted
--   13 pauses         count: the version of the pauses that the node knows; 0: none
-- Returns
--   {'beat'} if the node must send a heartbeat first; {'void'} if a later call of this node came before; else
--   {'ok', next wake-up or '', downtime count, downtimes or false, version of the targets, number of waiting suspects,
--   number of all suspects, number of jobs due within `burst` of the next wake-up, pauses or false, row, row, ...}
--   where row = {claim key, definition or false, state or false, lease}
-- Cost: O(limit × log(jobs)); seven commands per batch, two more per 8 jobs, one if a job is late, and a few per suspect.
-- Reads at most `reply_bytes` and 8 documents more, about 1 ms per MiB.

local due, jobs, states, leases, meta, nodes, claims = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local suspects = KEYS[8]
local now, limit, node, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local recent, dead_after, downtime_count = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local may_try, suspect_losses, reply_bytes = ARGV[8] == '1', tonumber(ARGV[9]), tonumber(ARGV[10])
local horizon, burst, known_pauses = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
local CLAIMED, PARKED, READ_AT_ONCE = 1e15, 2e15, 8
local TAKEN = 1e6
local LATE = 10000  -- ms; the alert rules report no job that is due for less

-- Returns a stored number; 0 if the text is no number.
local function whole(text)
  local number = tonumber(string.match(text or '', '^%d+$'))
  return number and number < 9e15 and number or 0
end

local beat = redis.call('ZSCORE', nodes, node)
if not beat or tonumber(beat) < now - dead_after then
  return {'beat'}
end
if tonumber(token) <= whole(redis.call('HGET', claims, node)) then
  return {'void'}
end

-- The field `suspects` exists while there may be a suspect. Usually it does not, and the commands for them are skipped.
-- The field `pauses` exists once everything was paused (pause/change.lua).
local facts = redis.call('HMGET', meta, 'downtime_count', 'targets_version', 'suspects', 'pauses')
local reply = {
  'ok', '', string.format('%.0f', whole(facts[1])), false, string.format('%.0f', whole(facts[2])), 0, 0, 0, false,
}
if reply[3] ~= downtime_count then
  reply[4] = redis.call('HGET', meta, 'downtimes') or ''
end
local pauses = facts[4]
if pauses or known_pauses ~= '0' then
  local version, paused_until = string.match(pauses or '', '^(%d+) (%d+) ')
  if version ~= known_pauses then reply[9] = pauses or '' end
  if paused_until and tonumber(paused_until) > now then horizon = now end
end

local ids, scores, trial = {}, {}, {}
local function pick_suspects(all)
  local group = math.min(math.ceil(all / 2), math.max(1, math.floor(limit / 2)))
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', suspects, 0, '(' .. TAKEN, 'LIMIT', 0, group)) do
    local row = redis.call('HGET', leases, id)
    local lease = row and read_lease(row)
    if not lease or lease.node ~= '-' then
      -- Its lease was lost or voided since then: it is no longer a suspect.
      redis.call('ZREM', suspects, id)
      if not row then redis.call('ZADD', due, 'XX', string.format('%.0f', now), id) end
    else
      local own = lease.group > 0 and math.min(group, lease.group) or group
      if #ids >= own then break end
      group = own
      ids[#ids + 1], scores[#scores + 1], trial[#trial + 1] = id, lease.score, lease
    end
  end
end
if facts[3] then
  local all = redis.call('ZCARD', suspects)
  if all == 0 then
    redis.call('HDEL', meta, 'suspects')
    facts[3] = false
  elseif may_try then
    pick_suspects(all)
  end
end

limit = limit - #ids
local found = {}
if limit > 0 then found = redis.call('ZRANGEBYSCORE', due, '-inf', horizon, 'WITHSCORES', 'LIMIT', 0, limit) end
if limit > 1 and #found == 2 * limit and tonumber(found[2]) < now - recent then
  -- A backlog of old wake-ups fills the batch: fill half of it with jobs that became due just now instead.
  local half = math.floor(limit / 2)
  local fresh = redis.call('ZRANGEBYSCORE', due, now - recent, horizon, 'WITHSCORES', 'LIMIT', 0, half)
  local batch, taken, old = {}, {}, 1
  for i = 1, #fresh, 2 do taken[fresh[i]] = true end
  -- Take from both in turn, so that neither part is left out when only the first jobs of the batch fit into `reply_bytes`.
  for i = 1, math.max(#fresh, #found), 2 do
    if #batch >= 2 * limit then break end
    if fresh[i] then batch[#batch + 1], batch[#batch + 2] = fresh[i], fresh[i + 1] end
    while found[old] and taken[found[old]] do old = old + 2 end
    if found[old] and #batch < 2 * limit then
      batch[#batch + 1], batch[#batch + 2] = found[old], found[old + 1]
      old = old + 2
    end
  end
  found = batch
end

for i = 1, #found, 2 do
  ids[#ids + 1], scores[#scores + 1] = found[i], found[i + 1]
end
local count = #ids

if count > 0 then
  local definitions, positions, fitting, size = {}, {}, 0, 0
  while fitting < count and size < reply_bytes do
    local last = math.min(fitting + READ_AT_ONCE, count)
    local some = redis.call('HMGET', jobs, unpack(ids, fitting + 1, last))
    local their = redis.call('HMGET', states, unpack(ids, fitting + 1, last))
    for i, definition in ipairs(some) do
      local state = their[i]
      size = size + (definition and #definition or 0) + (state and #state or 0)
      if size > reply_bytes and fitting > 0 then break end
      fitting = fitting + 1
      definitions[fitting], positions[fitting] = definition, state
    end
  end
  count = fitting
  local held = redis.call('HMGET', leases, unpack(ids, 1, count))
  -- At least the time in microseconds: fences still rise if Redis loses its last writes in a failover, the counter
  -- among them.
  local fence = math.max(whole(redis.call('HGET', meta, 'fence')), now * 1000 - 1)
  local lease_rows, due_rows, taken, parked, late, known = {}, {}, {}, {}, {}, ':' .. reply[3]
  local group = math.min(#trial, count)
  local now_text, held_score = string.format('%.0f', now), string.format('%.0f', CLAIMED + now)
  for i = 1, count do
    -- A lease without a holder was released or reaped: the run continues with the facts of its first claim, among them
    -- how many downtimes were known then. (A lease of an earlier version does not have that number.)
    local first_fence, first_claimed, losses, rest
    if held[i] then
      first_fence, first_claimed, losses, rest = string.match(held[i], '^%S+ %S+ (%d+) (%d+) (%d+) %S+ %d+(%S*)$')
      if pauses and tonumber(scores[i]) <= now and losses == '0' and string.match(held[i], '^%S+ %- [^~]*$') then
        -- Nothing was sent under it: decide as of now, since a pause may have come in between.
        first_fence, first_claimed, losses, rest = nil, nil, nil, nil
      end
    end
    local score, lease = tonumber(scores[i]), nil
    local ahead = not trial[i] and score > now
    local suspect = not trial[i] and losses and tonumber(losses) >= suspect_losses
    if ahead and losses and (suspect or tonumber(first_claimed) > now) then
      -- Wait for its wake-up.
    elseif suspect then
      parked[#parked + 1], parked[#parked + 2] = losses, ids[i]
      due_rows[#due_rows + 1], due_rows[#due_rows + 2] = string.format('%.0f', PARKED + now), ids[i]
    else
      due_rows[#due_rows + 1], due_rows[#due_rows + 2] = held_score, ids[i]
      fence = fence + 1
      local mine = string.format('%.0f', fence)
      if trial[i] then
        trial[i].fence, trial[i].node, trial[i].token, trial[i].group = mine, node, token, group
        taken[#taken + 1], taken[#taken + 2] = string.format('%.0f', TAKEN + trial[i].losses), ids[i]
        lease = write_lease(trial[i])
      else
        local decided_at = first_claimed or ahead and string.format('%.0f', score) or now_text
        lease = mine .. ' ' .. node .. ' ' .. (first_fence or mine) .. ' ' .. decided_at .. ' ' .. (losses or '0') .. ' '
          .. scores[i] .. ' ' .. token .. (rest or known)
      end
      if score <= now - LATE then late[#late + 1] = string.match(ids[i], '^[^\31]*') end
      lease_rows[#lease_rows + 1], lease_rows[#lease_rows + 2] = ids[i], lease
      reply[#reply + 1] = {ids[i], definitions[i], positions[i], lease}
    end
  end
  if #lease_rows > 0 then
    redis.call('HSET', meta, 'fence', string.format('%.0f', fence))
    redis.call('HSET', claims, node, token)
    redis.call('HSET', leases, unpack(lease_rows))
  end
  if #due_rows > 0 then redis.call('ZADD', due, unpack(due_rows)) end
  if #taken > 0 then redis.call('ZADD', suspects, unpack(taken)) end
  if #parked > 0 then
    redis.call('ZADD', suspects, unpack(parked))
    redis.call('HSET', meta, 'suspects', '1')
    facts[3] = '1'
  end
  if #late > 0 then
    -- pcall: sets of the wrong type must not stop claims.
    local changed, alarms = KEYS[9], redis.pcall('ZMSCORE', KEYS[10], unpack(late))
    local time, rows = redis.call('TIME'), {}
    for i, id in ipairs(late) do
      if alarms[i] then rows[#rows + 1], rows[#rows + 2] = string.format('%.0f', time[1] * 1e6 + time[2]), id end
    end
    if #rows > 0 and redis.pcall('EXISTS', changed) == 1 then redis.pcall('ZADD', changed, unpack(rows)) end
  end
end
if facts[3] then
  reply[6] = redis.call('ZCOUNT', suspects, '-inf', '(' .. TAKEN)
  reply[7] = redis.call('ZCARD', suspects)
end

local head = redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. string.format('%.0f', CLAIMED), 'WITHSCORES', 'LIMIT', 0, 1)
if head[2] then
  reply[2] = head[2]
  local last = math.min(tonumber(head[2]) + burst, CLAIMED - 1)
  reply[8] = redis.call('ZCOUNT', due, '-inf', string.format('%.0f', last))
end
return reply
