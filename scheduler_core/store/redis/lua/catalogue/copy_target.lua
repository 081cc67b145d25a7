-- needs: version
-- Store a copy of a target on a further shard, or delete it. The first shard has the target itself.
--
-- Guarantee: an older definition never replaces a newer one, in whatever order copies arrive. The version of the
-- targets is raised in the same step, so that a later claim makes its node read the target again. Sent again, it
-- changes nothing but the version.
--
-- KEYS
--   1 copies  hash: target id -> `revision definition`
--   2 meta    hash: version of the targets
-- ARGV
--   1 target_id   text
--   2 revision    epoch ms or empty: when the target was changed; empty: it was deleted
--   3 definition  bytes
-- Returns
--   1 if the copy was stored or deleted, 0 if there is a newer one
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
