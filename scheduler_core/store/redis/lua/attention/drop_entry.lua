-- needs: deadline
-- Remove a member from a sorted set if its score is still the one that the caller read.
--
-- Guarantee: a member that was added again since, with a later score, stays.
--
-- KEYS
--   1 of_scores  sorted set: the set to change
-- ARGV
--   1 member       bytes
--   2 score        score: as the caller read it
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   1 if it was removed, else 0
-- Cost: O(log(members)).

local stored = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not stored or tonumber(stored) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
