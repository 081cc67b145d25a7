-- Read one one-off task, and which set holds it, all of one moment.
--
-- Guarantee: reads only.
--
-- KEYS
--   1 tasks  hash, task to document
--   2...     sorted sets that may hold it
-- ARGV
--   1 task
-- Returns
--   {document or false, place of the set among those asked (from 0), score}; place -1 if none holds it
-- Cost: O(1).

local document = redis.call('HGET', KEYS[1], ARGV[1])
for i = 2, #KEYS do
  local score = redis.call('ZSCORE', KEYS[i], ARGV[1])
  if score then return {document, i - 2, score} end
end
return {document, -1, '0'}
