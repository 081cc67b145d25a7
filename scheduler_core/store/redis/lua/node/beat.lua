-- Record a node's heartbeat, and the downtime that it ends.
--
-- Guarantee: a time without any heartbeat is recorded once, by the heartbeat that ends it and before any claim that
-- follows (a claim needs a fresh heartbeat). The first write frees memory, so that a full Redis accepts heartbeats.
--
-- KEYS
--   1 nodes   sorted set: node id -> last heartbeat
--   2 meta    hash: store id, last heartbeat, downtimes and their count
--   3 claims  hash: node id -> number of its latest claim
--   4 events  stream: see lib/events.lua
--   5 facts   hash: node id -> facts of the node for people (msgpack)
--   6 alert_book  hash: alert rules and channels, their version
-- ARGV
--   1 node            text: node id
--   2 now             epoch ms
--   3 starting        0 or 1: the first heartbeat of the node
--   4 sole            0 or 1: no other node can be alive, because the embedded Redis was just started
--   5 start_gap       ms: a time without a heartbeat that a starting node records as downtime while others may be alive
--   6 lived_gap       ms: a time without a heartbeat that a node which kept running records as downtime
--   7 forget          ms: without a heartbeat, until a node's entry is removed
--   8 store_id        text: stored if the store has none yet
--   9 downtimes_kept  count: older downtimes are merged into one
--   10 facts          bytes: msgpack; empty: none are stored on this shard
-- Returns
--   {downtime count, downtimes as 'after:until,after:until,...', number of nodes with a heartbeat within lived_gap,
--   store id, 1 if a client listens to events, version of the alert book or '' if none was ever stored}
-- Cost: O(nodes).

local nodes, meta, claims, events, facts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local node, now, starting, sole = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4] == '1'
local start_gap, lived_gap, forget = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local store_id, keep = ARGV[8], tonumber(ARGV[9])

local before = tonumber(redis.call('ZSCORE', nodes, node) or '')
redis.call('ZREM', nodes, node)
local others = redis.call('ZCARD', nodes)
-- A heartbeat that the node stopped waiting for can arrive after its successor, and must not set the time back. A score
-- further ahead than that was written before Redis's clock was set back.
local beat = now
if before and before > now and before <= now + lived_gap then beat = before end
redis.call('ZADD', nodes, string.format('%.0f', beat), node)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', string.format('%.0f', now - forget))) do
  redis.call('ZREM', nodes, old)
  redis.call('HDEL', claims, old)
  redis.call('HDEL', facts, old)
end
if ARGV[10] ~= '' then
  redis.call('HSET', facts, node, ARGV[10])
  if starting then
    -- A node of a version without facts removes entries of nodes, and leaves their facts.
    for _, known in ipairs(redis.call('HKEYS', facts)) do
      if not redis.call('ZSCORE', nodes, known) then redis.call('HDEL', facts, known) end
    end
  end
end
-- No node's clock is that far ahead, so these entries are no heartbeats. They would count as living nodes for ever.
redis.call('ZREMRANGEBYSCORE', nodes, '(' .. string.format('%.0f', now + forget), '+inf')
redis.call('HSETNX', meta, 'store_id', store_id)

local known = redis.call('HMGET', meta, 'last_beat', 'downtimes', 'downtime_count', 'store_id')
local last = tonumber(string.match(known[1] or '', '^%d+$'))
local written = known[2] or ''
local count = string.match(known[3] or '', '^%d+$') or '0'
if #count > 15 then count = '0' end
if last and last < now then
  local gap = now - last
  local down
  if starting then
    down = sole or others == 0 or gap > start_gap
  else
    down = gap > lived_gap
  end
  if down then
    local windows = {}
    for window in string.gmatch(written, '[^,]+') do
      if string.match(window, '^%d+:%d+$') then windows[#windows + 1] = window end
    end
    windows[#windows + 1] = string.format('%.0f:%.0f', last, now)
    if #windows > keep then
      -- Too many: merge the two oldest. The time between them then counts as downtime too.
      local first, second = table.remove(windows, 1), table.remove(windows, 1)
      table.insert(windows, 1, string.match(first, '^(.-):') .. ':' .. string.match(second, ':(.*)$'))
    end
    written = table.concat(windows, ',')
    redis.call('HSET', meta, 'downtimes', written)
    count = string.format('%.0f', tonumber(count) + 1)
    redis.call('HSET', meta, 'downtime_count', count)
  end
end
-- A last heartbeat far ahead was written before Redis's clock was set back. If it stayed, it would hide downtimes.
if not last or last < now or last > now + lived_gap then
  redis.call('HSET', meta, 'last_beat', string.format('%.0f', now))
end
local lately = redis.call('ZCOUNT', nodes, string.format('%.0f', now - lived_gap), '+inf')
-- pcall: a book of the wrong type must not stop heartbeats. Its reader meets the fault.
local book = redis.pcall('HGET', KEYS[6], 'version')
if type(book) == 'table' then book = 'unknown' end
return {tostring(count), written, lately, known[4], redis.call('EXISTS', events), book or ''}
