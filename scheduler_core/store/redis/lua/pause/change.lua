-- needs: deadline
-- Begin a pause of everything on this shard, or end the one that runs, if the pauses are those that the caller read.
--
-- Guarantee: every earlier claim has a fence up to the one that is stored with the change, every later claim a higher
-- one. So the fence of a claim shows for ever which pauses it took into account. The instant of the change is not before any instant
-- as of which an earlier claim was decided, except for claims ahead of a wake-up, which a pause does not allow.
--
-- KEYS
--   1 meta    hash: fence counter, pauses
--   2 pauses  list: of each pause in `meta`, who made it and why
-- ARGV
--   1 now       epoch ms
--   2 expected  count: the version of the pauses that the caller read; 0: none
--   3 begin     0 or 1: begin a pause (which ends the one that runs), or only end that
--   4 until     epoch ms or empty: the end of the new pause, if it has one
--   5 last      bytes: the entry of the pause that this ends; empty: none runs
--   6 entry     bytes: the entry of the new pause; empty: none begins
--   7 kept      count: pauses to keep
--   last deadline  epoch ms or empty: see lib/deadline.lua
-- Returns
--   {'ok', instant of the change}, or {'changed'} if the pauses have another version
-- Cost: O(kept).
--
-- The field `pauses` of `meta` is `version end range,range,...`:
--   version  grows with every change
--   end      of the pause that runs, OPEN if it has none; 0: none runs. It may have passed
--   range    from:until:fence:ended:end_fence, oldest first, as model/pause.py explains; 0: none

local meta, pauses = KEYS[1], KEYS[2]
local now, expected, begin = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local until_at, last, entry, kept = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local OPEN, LEAD = '9000000000000000', 1000

local facts = redis.call('HMGET', meta, 'pauses', 'fence')
local version, running_until, text = string.match(facts[1] or '', '^(%d+) (%d+) (.*)$')
if (version or '0') ~= expected then return {'changed'} end

-- The fence of a claim is at least its time in microseconds. This clock may lag behind that of the node. A fence far
-- ahead was given before Redis's clock was set back.
local fence = tonumber(string.match(facts[2] or '', '^%d+$') or '0')
local claimed = math.floor(fence / 1000)
if claimed >= now and claimed < now + LEAD then now = claimed + 1 end
local at, mark = string.format('%.0f', now), string.format('%.0f', fence)

local ranges, ends_one = {}, false
for range in string.gmatch(text or '', '[^,]+') do ranges[#ranges + 1] = range end
if #ranges > 0 and tonumber(running_until) > now then
  local open = string.match(ranges[#ranges], '^(%d+:%d+:%d+):0:0$')
  if open then ranges[#ranges], ends_one = open .. ':' .. at .. ':' .. mark, true end
end
if begin then ranges[#ranges + 1] = at .. ':' .. (until_at == '' and '0' or until_at) .. ':' .. mark .. ':0:0' end
while #ranges > kept do table.remove(ranges, 1) end
version = string.format('%.0f', math.max(now, tonumber(version or '0') + 1))
running_until = begin and (until_at == '' and OPEN or until_at) or '0'
-- HDEL comes first: it frees memory, so that a full Redis accepts the rest.
redis.call('HDEL', meta, 'pauses')
redis.call('HSET', meta, 'pauses', version .. ' ' .. running_until .. ' ' .. table.concat(ranges, ','))
-- pcall: a list of the wrong type must not undo the pause.
if ends_one and last ~= '' then redis.pcall('LSET', pauses, -1, last) end
if begin then redis.pcall('RPUSH', pauses, entry) end
redis.pcall('LTRIM', pauses, -kept, -1)
return {'ok', at}
