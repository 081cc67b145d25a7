-- needs: version
-- Keep a copy of a target on a further shard, or take it away. The first shard has the target itself.
--
-- Guarantee: an older definition never takes the place of a newer one, in whatever order copies arrive. The version of
-- the targets is raised in the same step, so that a claim made afterwards tells its node to read the target again. Sent
-- again, it changes nothing but the version.
--
-- KEYS
--   1 copies hash, target id to `revision definition`
--   2 meta   hash, with the version of the targets
-- ARGV
--   1 id
--   2 revision    count, larger with every change of the target; empty: the target is gone
--   3 definition
-- Returns
--   1 if the copy is as asked, 0 if there is a newer one
-- Cost: O(1); two or three commands.

local copies, meta = KEYS[1], KEYS[2]
local id, revision, definition = ARGV[1], ARGV[2], ARGV[3]

if revision == '' then
  redis.call('HDEL', copies, id)
else
  local stored = redis.call('HGET', copies, id)
  if stored and tonumber(string.match(stored, '^%d+') or '0') > tonumber(revision) then return 0 end
  redis.call('HSET', copies, id, revision .. ' ' .. definition)
end
raise_targets_version(meta)
return 1
