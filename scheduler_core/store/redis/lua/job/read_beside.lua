-- Read what the next attempt of a child run needs besides its own documents: whether the job is still the one that the
-- run was made from, and its latest successes.
--
-- Guarantee: reads only. The answer holds at most `part` entries, however long the history is. A history of the wrong
-- type has no successes.
--
-- KEYS
--   1 jobs     hash: claim key -> definition; a child run has a copy of its job's definition as it was at its start
--   2 history  list: of the job
-- ARGV
--   1 job_id     text
--   2 claim_key  text: of the child run; the job id again: return only the successes
--   3 part       count: entries examined together, at least as many as child runs overlap
--   4 parts      count: the most parts that are examined, the latest first
-- Returns
--   {'same', 'changed' or 'gone', definition or '', copy or '', entry, entry, ...}: if it changed, the definition of the
--   job and the copy of the child run; and the successes of the latest part that has any
-- Cost: O(entries since the latest success); two or three commands if it is among the latest `part`.

local jobs, history = KEYS[1], KEYS[2]
local part, parts = tonumber(ARGV[3]), tonumber(ARGV[4])

local definitions = redis.call('HMGET', jobs, ARGV[1], ARGV[2])
local reply = {'same', '', ''}
if not definitions[1] then
  reply[1] = 'gone'
elseif definitions[1] ~= definitions[2] then
  reply = {'changed', definitions[1], definitions[2] or ''}
end
for i = 1, parts do
  local entries = redis.pcall('LRANGE', history, -i * part, -(i - 1) * part - 1)
  if entries.err or #entries == 0 then break end
  for _, entry in ipairs(entries) do
    if string.sub(entry, 1, 1) == 'S' then reply[#reply + 1] = entry end
  end
  if #reply > 3 or #entries < part then break end
end
return reply
