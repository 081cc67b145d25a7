-- needs: deadline
-- Remove the note that a job uses a target, unless it was made again since it was read.
--
-- Guarantee: a note that was made after the caller read it stays. Only frees memory.
--
-- KEYS
--   1 jobs_of  sorted set: note -> when it was made (epoch ms)
-- ARGV
--   1 note         text
--   2 made         epoch ms: the score as read
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   1 if the note was removed, else 0
-- Cost: O(log(jobs of the target)); one or two commands.

local jobs_of = KEYS[1]
local note, made = ARGV[1], tonumber(ARGV[2])

local score = redis.call('ZSCORE', jobs_of, note)
if not score or tonumber(score) ~= made then return 0 end
return redis.call('ZREM', jobs_of, note)
