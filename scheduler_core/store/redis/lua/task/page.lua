-- Read a part of one of the sorted sets of one-off tasks, with the documents.
--
-- Guarantee: reads only. The place to continue from is found by score and member, so it is right even if the task that
-- was there has left the set, and however many tasks have the same score.
--
-- KEYS
--   1 tasks            hash: task -> document
--   2 tasks_of_status  sorted set: the set to read
-- ARGV
--   1 reverse  0 or 1: from the highest score down
--   2 score    score: of the last task of the page before; empty: from the beginning
--   3 task     text: that task
--   4 limit    count: at most 1001
-- Returns
--   {row, row, ...} where row = {task, score, document or false}
-- Cost: O(log(tasks)² + limit).

local tasks, tasks_of_status = KEYS[1], KEYS[2]
local reverse, score, member, limit = ARGV[1] == '1', ARGV[2], ARGV[3], tonumber(ARGV[4])

-- Count the members before the place, in ascending order: those below (score, member), or up to it when read downwards.
local size = redis.call('ZCARD', tasks_of_status)
local before = reverse and size or 0
if score ~= '' then
  local low = redis.call('ZCOUNT', tasks_of_status, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', tasks_of_status, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local there = redis.call('ZRANGE', tasks_of_status, middle, middle)[1]
    if there < member or (not reverse and there == member) then low = middle + 1 else high = middle end
  end
  before = low
end

local found
if reverse then
  if before == 0 then return {} end
  found = redis.call('ZREVRANGE', tasks_of_status, size - before, size - before + limit - 1, 'WITHSCORES')
else
  found = redis.call('ZRANGE', tasks_of_status, before, before + limit - 1, 'WITHSCORES')
end
if #found == 0 then return {} end
local members, rows = {}, {}
for i = 1, #found, 2 do members[#members + 1] = found[i] end
local documents = redis.call('HMGET', tasks, unpack(members))
for i, one in ipairs(members) do rows[i] = {one, found[2 * i], documents[i]} end
return rows
