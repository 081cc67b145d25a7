-- needs: record
-- Settle tasks of the batch that is out; with the last one the batch ends, and the pause before the next begins.
--
-- Guarantee: nothing is changed unless the batch is still the caller's. Running the same settle twice changes nothing
-- the second time. A task that was deleted during its call is never due again. The first write frees memory (ZREM);
-- after it, a full Redis lets the script finish and record how calls ended.
--
-- KEYS
--   1 fresh      sorted set: task that never failed -> instant of its execution (epoch ms)
--   2 failed     sorted set: likewise, tasks that did
--   3 running    sorted set: the tasks of the batch; 10^15 is added to the score of one that has failed
--   4 tasks      hash: task -> document
--   5 delivered  sorted set: task -> instant (epoch ms) at which it was settled
--   6 stale      sorted set: likewise
--   7 batch      hash: node, fence, token, out, ended
--   8 to 15      keys of lib/record.lua
--   16 dismissed  sorted set: stale task -> instant (epoch ms) at which it was dismissed
--   then for each task
--   * history    list: of the task
--   * failures   list: of the task
-- ARGV
--   1 now             epoch ms
--   2 node            text: node id that took the batch
--   3 fence           count: of the batch
--   4 delivered_kept  count: the oldest are removed
--   5 stale_kept      count: likewise
--   6 history_kept    count: entries kept in a task's history
--   7 failures_kept   count: entries kept of those that left it and did not succeed
--   8 retention       ms: after the last entry, until both lists expire
--   9 channel         text: where nodes listen for changes of one-off tasks
--   then for each task, at most 500
--   * task            text
--   * operation       text: see below
--   * document        bytes: to store; empty: unchanged
--   * n               count: records that follow (0 or 1), six arguments each (lib/record.lua)
--   operation: 'delivered', 'stale'
--              'failed'  it is due again, after those that never failed
--              'back'    it returns to the set that it came from
--              'drop'    it was deleted: remove it from the batch
-- Returns
--   {'1' if this batch is over or no longer the caller's, number of stale tasks removed, answer, answer, ...}
--   where answer = 'ok', 'done' (it was settled before), 'deleted' (it failed and was deleted during its call: send
--   it again with 'drop'), or 'refused' (the batch is not the caller's)
-- Cost: O(n × log(tasks)).

local fresh, failed, running, tasks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delivered, stale, batch, dismissed = KEYS[5], KEYS[6], KEYS[7], KEYS[16]
local now = ARGV[1]
local HAS_FAILED, FIELDS, RECORD, TRIM = 1e15, 4, 6, 1000
local book = open_book(8, tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8])

local members, places = {}, {}
local at = 10
while at <= #ARGV do
  members[#members + 1], places[#places + 1] = ARGV[at], at
  at = at + FIELDS + RECORD * tonumber(ARGV[at + 3])
end

local reply = {'0', 0}
local facts = redis.call('HMGET', batch, 'node', 'fence', 'out')
if facts[1] ~= ARGV[2] or facts[2] ~= ARGV[3] then
  reply[1] = '1'
  for i = 1, #members do reply[2 + i] = 'refused' end
  return reply
end

local scores = #members > 0 and redis.call('ZMSCORE', running, unpack(members)) or {}
local released, documents, gone, recorded = {}, {}, {}, {}
local scored = {[fresh] = {}, [failed] = {}, [delivered] = {}, [stale] = {}}
local function put(set, score, member)
  local list = scored[set]
  list[#list + 1], list[#list + 2] = score, member
end
for i, member in ipairs(members) do
  local operation, document = ARGV[places[i] + 1], ARGV[places[i] + 2]
  local score = tonumber(scores[i] or '')
  local answer = 'ok'
  if not score then
    answer = 'done'
  elseif operation == 'failed' and redis.call('HEXISTS', tasks, member) == 0 then
    answer = 'deleted'
  else
    released[#released + 1] = member
    recorded[#recorded + 1] = i
    local due = score >= HAS_FAILED and score - HAS_FAILED or score
    if operation == 'drop' then
      gone[#gone + 1] = member
    elseif operation == 'failed' then
      put(failed, string.format('%.0f', due), member)
    elseif redis.call('HEXISTS', tasks, member) == 1 then
      if operation == 'delivered' then
        put(delivered, now, member)
      elseif operation == 'stale' then
        put(stale, now, member)
      else
        put(score >= HAS_FAILED and failed or fresh, string.format('%.0f', due), member)
      end
    else
      document = ''
    end
    if document ~= '' then documents[#documents + 1], documents[#documents + 2] = member, document end
  end
  reply[2 + i] = answer
end

if #released > 0 then redis.call('ZREM', running, unpack(released)) end
if #gone > 0 then redis.call('HDEL', tasks, unpack(gone)) end
if #documents > 0 then redis.call('HSET', tasks, unpack(documents)) end
for set, list in pairs(scored) do
  if #list > 0 then redis.call('ZADD', set, unpack(list)) end
end
for _, i in ipairs(recorded) do
  book.add(KEYS[15 + 2 * i], KEYS[16 + 2 * i], ARGV, places[i] + FIELDS, tonumber(ARGV[places[i] + 3]))
end
book.flush()

local function trim(set, keep)
  local over = redis.call('ZCARD', set) - keep
  if over <= 0 then return 0 end
  local oldest = redis.call('ZRANGE', set, 0, math.min(over, TRIM) - 1)
  redis.call('HDEL', tasks, unpack(oldest))
  redis.call('ZREM', set, unpack(oldest))
  if set == stale then redis.call('ZREM', dismissed, unpack(oldest)) end
  return #oldest
end
trim(delivered, tonumber(ARGV[4]))
reply[2] = trim(stale, tonumber(ARGV[5]))

if redis.call('ZCARD', running) == 0 then
  if facts[3] == '1' then
    redis.call('HSET', batch, 'out', '0', 'ended', now)
    redis.call('PUBLISH', ARGV[9], '0')
  end
  reply[1] = '1'
end
return reply
