-- Take the next batch of one-off tasks: the due tasks that never failed, then the due tasks that did.
--
-- Guarantee: at most one batch is out, whichever node took it, and the next one comes base_interval_ms after its end. A
-- node without a fresh heartbeat gets nothing: others may be reclaiming its batch. Sent again with the same token (the
-- reply was lost), it answers with the same batch; an older token takes nothing. The first write needs memory, so that
-- a full Redis refuses new calls.
--
-- KEYS
--   1 fresh     sorted set: task that never failed -> instant of its execution (epoch ms)
--   2 failed    sorted set: likewise, tasks that did
--   3 running   sorted set: the tasks of the batch that is out; 10^15 is added to the score of one that has failed
--   4 tasks     hash: task -> document
--   5 batch     hash: node, fence, token, out ('1' or '0'), ended (epoch ms)
--   6 settings  hash
--   7 meta      hash: fence counter, pauses of everything
--   8 nodes     sorted set: node id -> last heartbeat
-- ARGV
--   1 now                       epoch ms
--   2 node                      text: node id
--   3 token                     count: number of this call, larger than that of every earlier call of the node
--   4 dead_after                ms: a node without a heartbeat for this long is dead
--   5 slots                     count: tasks that the node can call at once
--   6 base_interval_ms          ms: if the store has none
--   7 http_callback_timeout_ms  ms: if the store has none
--   8 select_size               count: if the store has none
--   9 max_retries               count: if the store has none
-- Returns
--   {'beat'}                       the node must send a heartbeat first
--   {'void'}                       the token is used up: use a new one
--   {'busy', node, fence, alive}   a batch is out; alive: '1' if that node has a fresh heartbeat
--   {'wait', until}                the pause after the last batch is not over, or everything is paused
--   {'empty', instant or ''}       nothing is due; the instant at which the next task is due
--   {'ok', fence, the four settings, row, row, ...}
--   where row = {task, score in `running`, document or false}, in the order in which they are due
-- Cost: O(batch × log(tasks)).

local fresh, failed, running, tasks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local batch, settings, meta, nodes = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now, node, token = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local dead_after, slots = tonumber(ARGV[4]), tonumber(ARGV[5])
local NAMES = {'base_interval_ms', 'http_callback_timeout_ms', 'select_size', 'max_retries'}
local HAS_FAILED, CHUNK, JUMP = 1e15, 1000, 1000

-- Returns a stored whole number; 0 if the text is none.
local function whole(text)
  local number = tonumber(string.match(text or '', '^%d+$'))
  return number and number < 9e15 and number or 0
end

local function beats(who)
  local beat = tonumber(redis.call('ZSCORE', nodes, who) or '')
  -- A heartbeat far ahead was written before Redis's clock was set back: it does not count.
  return beat and beat >= now - dead_after and beat <= now + dead_after
end

local rules = redis.call('HMGET', settings, unpack(NAMES))
local unset = not rules[1]
for i = 1, 4 do
  if not rules[i] or not string.match(rules[i], '^%d+$') or #rules[i] > 12 then rules[i] = ARGV[5 + i] end
end

local function answer(fence)
  local rows = redis.call('ZRANGE', running, 0, -1, 'WITHSCORES')
  local reply = {'ok', fence, rules[1], rules[2], rules[3], rules[4]}
  for start = 1, #rows, CHUNK do
    local members = {}
    for i = start, math.min(start + CHUNK - 1, #rows), 2 do members[#members + 1] = rows[i] end
    for i, document in ipairs(redis.call('HMGET', tasks, unpack(members))) do
      if #members[i] == 16 and whole(members[i]) > 0 then
        reply[#reply + 1] = {members[i], rows[start + 2 * i - 1], document}
      else
        redis.call('ZREM', running, members[i]) -- no task's number
      end
    end
  end
  return reply
end

if not beats(node) then return {'beat'} end
local facts = redis.call('HMGET', batch, 'node', 'fence', 'token', 'out', 'ended')
local holder, fence, last_token, ended = facts[1], facts[2], tonumber(facts[3] or ''), tonumber(facts[5] or '')
-- If holder or fence of a batch cannot be read, no node owns it: its tasks are called with the next batch.
local is_out = facts[4] == '1' and whole(fence) > 0 and holder and string.match(holder, '^[%w%p]+$')
if holder == node and last_token and token <= last_token then
  if is_out and token == last_token then return answer(fence) end
  return {'void'}
end
if is_out then return {'busy', holder, fence, beats(holder) and '1' or '0'} end
local paused_until = string.match(redis.call('HGET', meta, 'pauses') or '', '^%d+ (%d+) ')
if paused_until and tonumber(paused_until) > now then return {'wait', paused_until} end
if ended then
  local interval = tonumber(rules[1])
  local due = ended + interval
  -- A pause that ends later than this was recorded before Redis's clock was set back.
  if due > now and due <= now + interval + JUMP then return {'wait', string.format('%.0f', due)} end
end

local limit = math.min(tonumber(rules[3]), slots)
local first = redis.call('ZRANGEBYSCORE', fresh, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
local second = {}
if #first < 2 * limit then
  second = redis.call('ZRANGEBYSCORE', failed, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit - #first / 2)
end
if #first == 0 and #second == 0 then
  local next_at
  for _, set in ipairs({fresh, failed}) do
    local at = tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2] or '')
    if at and at < HAS_FAILED and (not next_at or at < next_at) then next_at = at end
  end
  return {'empty', next_at and string.format('%.0f', next_at) or ''}
end

fence = string.format('%.0f', math.max(whole(redis.call('HGET', meta, 'fence')) + 1, now * 1000))
redis.call('HSET', meta, 'fence', fence)
if unset then
  redis.call('HSET', settings, NAMES[1], rules[1], NAMES[2], rules[2], NAMES[3], rules[3], NAMES[4], rules[4])
end
redis.call('HSET', batch, 'node', node, 'fence', fence, 'token', ARGV[3], 'out', '1')
local function move(found, set, mark)
  for start = 1, #found, CHUNK do
    local members, scored = {}, {}
    for i = start, math.min(start + CHUNK - 1, #found), 2 do
      members[#members + 1] = found[i]
      -- A member that is no task's number is removed.
      if #found[i] == 16 and whole(found[i]) > 0 then
        scored[#scored + 1] = string.format('%.0f', math.max(tonumber(found[i + 1]), 0) + mark)
        scored[#scored + 1] = found[i]
      end
    end
    redis.call('ZREM', set, unpack(members))
    if #scored > 0 then redis.call('ZADD', running, unpack(scored)) end
  end
end
move(first, fresh, 0)
move(second, failed, HAS_FAILED)
return answer(fence)
