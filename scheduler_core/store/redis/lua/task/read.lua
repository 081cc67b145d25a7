-- Read one one-off task, and which set holds it, in one step.
--
-- Guarantee: reads only.
--
-- KEYS
--   1 tasks      hash: task -> document
--   2 fresh      sorted set: the sets that may hold it
--   3 failed     sorted set
--   4 running    sorted set
--   5 stale      sorted set
--   6 delivered  sorted set
-- ARGV
--   1 task  text
-- Returns
--   {document or false, place of the set among those above (from 0), score}; place -1 if none holds it
-- Cost: O(1).

local document = redis.call('HGET', KEYS[1], ARGV[1])
for i = 2, #KEYS do
  local score = redis.call('ZSCORE', KEYS[i], ARGV[1])
  if score then return {document, i - 2, score} end
end
return {document, -1, '0'}
