-- needs: deadline
-- Store new one-off tasks, numbered in the order of their arrival.
--
-- Guarantee: all or none. The first write needs memory, so that a full Redis refuses the whole batch.
--
-- KEYS
--   1 fresh  sorted set: task -> instant of its execution (epoch ms)
--   2 tasks  hash: task -> document
--   3 meta   hash: number of the latest task
-- ARGV
--   1 channel      text: where nodes listen for changes of one-off tasks
--   then for each task, at most 1000
--   * execute_at   epoch ms
--   * document     bytes
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   number of the first task; the others follow it
-- Cost: O(n × log(tasks)).

local fresh, tasks, meta = KEYS[1], KEYS[2], KEYS[3]
local count = (#ARGV - 1) / 2

local last = redis.pcall('HINCRBY', meta, 'task_number', count)
if type(last) ~= 'number' or last < count or last >= 1e15 then
  -- The counter holds no number. The time in milliseconds is above every number that was used.
  last = tonumber(redis.call('TIME')[1]) * 1000 + count
  redis.call('HSET', meta, 'task_number', string.format('%.0f', last))
end
local first = last - count + 1
local documents, scores = {}, {}
local soonest
for i = 0, count - 1 do
  -- Fixed width: members of one score are sorted as text, and that has to be the order of arrival.
  local member = string.format('%016.0f', first + i)
  local at, document = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  documents[2 * i + 1], documents[2 * i + 2] = member, document
  scores[2 * i + 1], scores[2 * i + 2] = at, member
  if not soonest or tonumber(at) < soonest then soonest = tonumber(at) end
end
redis.call('HSET', tasks, unpack(documents))
redis.call('ZADD', fresh, unpack(scores))
if redis.call('ZCOUNT', fresh, '-inf', '(' .. string.format('%.0f', soonest)) == 0 then
  redis.call('PUBLISH', ARGV[1], string.format('%.0f', soonest))
end
return first
