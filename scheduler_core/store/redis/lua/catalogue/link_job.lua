-- needs: deadline
-- Note that a job uses a target, or is about to.
--
-- Guarantee: a target that has such a note is not deleted, and no note is made for a target that is gone. The score of
-- a note grows each time that it is made again, so that a reader can tell whether it was. Sent again, it makes the same
-- note again.
--
-- KEYS
--   1 targets  hash: target id -> definition
--   2 jobs_of  sorted set: note -> when it was made (epoch ms)
-- ARGV
--   1 target_id    text
--   2 note         text: `j` and the job id, or for a job about to be written `p`, a token and the job id
--   3 now          epoch ms
--   4 replaces     text: a note to remove in the same step; empty: none
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   1 if the note was made, 0 if the target is gone
-- Cost: O(log(jobs of the target)); two to four commands.

local targets, jobs_of = KEYS[1], KEYS[2]
local target, note, now, replaces = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if redis.call('HEXISTS', targets, target) == 0 then return 0 end
local before = tonumber(redis.call('ZSCORE', jobs_of, note) or '0')
if before >= now then now = before + 1 end
redis.call('ZADD', jobs_of, string.format('%.0f', now), note)
if replaces ~= '' then redis.call('ZREM', jobs_of, replaces) end
return 1
