-- needs: deadline version
-- Replace the definition of a target, and with it its name.
--
-- Guarantee: nothing is written unless the stored definition is the one that the caller changed, and the new name is
-- free. The version of the targets is raised in the same step, so that a later claim makes its node read the target
-- again. Sent again, it finds what it wrote and changes nothing.
--
-- KEYS
--   1 targets       hash: target id -> definition
--   2 target_names  hash: name -> `id token`
--   3 meta          hash: version of the targets
-- ARGV
--   1 target_id    text
--   2 expected     bytes: definition as read
--   3 definition   bytes: new one
--   4 old_name     text: as in the expected definition
--   5 new_name     text
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   'ok', 'gone', 'taken', or 'changed' if the target is not what the caller read
-- Cost: O(1); three to six commands.

local targets, target_names, meta = KEYS[1], KEYS[2], KEYS[3]
local id, expected, definition, old_name, new_name = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local stored = redis.call('HGET', targets, id)
if not stored then return 'gone' end
if stored == definition then return 'ok' end
if stored ~= expected then return 'changed' end
if new_name ~= old_name then
  local owner = string.match(redis.call('HGET', target_names, new_name) or '', '^%d+')
  if owner and owner ~= id then return 'taken' end
  redis.call('HSET', target_names, new_name, id .. ' -')
  redis.call('HDEL', target_names, old_name)
end
redis.call('HSET', targets, id, definition)
raise_targets_version(meta)
return 'ok'
