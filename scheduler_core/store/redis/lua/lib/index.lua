-- Library for scripts that change jobs: writes the index of jobs. A script requests it with its first line,
-- `-- needs: index`.
--
--   write_index(packed, first, claim_keys, replies, shift)
--
-- Guarantee: the index of a job changes in the step that changes the job, and only if that change was applied. Use
-- pcall: a set of the wrong type must not stop a change half way; readers check each job that they find in a set.
--
-- packed      the argument `index_writes`: msgpack, an array of three fields for each write: number of a set among the KEYS
--             after `first`, number of the item (from 1; 0: every item), and a score; '-': remove the job; '+n': add n
--             to its score. '@': if the set exists, give the job the server's time in microseconds as its score there;
--             '?': likewise, if an earlier write of this item removed the job from a set
-- first       the number of the KEYS before the sets of the index
-- claim_keys  the claim key of each item
-- replies     the reply to each item, after `shift` others: an item was applied if it is 'ok'
-- Cost: O(writes × log(entries of the set)); nothing if `packed` is empty.

local function write_index(packed, first, claim_keys, replies, shift)
  if packed == '' then return end
  local writes = cmsgpack.unpack(packed)
  local removed, instant = {}, nil

  local function job_of(item) return string.match(claim_keys[item], '^[^\31]*') end

  local function note(key, item)
    if instant == nil then
      local time = redis.call('TIME')
      instant = redis.pcall('EXISTS', key) == 1 and string.format('%.0f', time[1] * 1e6 + time[2])
    end
    if instant and replies[shift + item] == 'ok' then redis.pcall('ZADD', key, instant, job_of(item)) end
  end

  for at = 1, #writes, 3 do
    local key, item, score = KEYS[first + writes[at]], writes[at + 1], writes[at + 2]
    if item == 0 then
      for one = 1, #claim_keys do note(key, one) end
    elseif score == '@' or (score == '?' and removed[item]) then
      note(key, item)
    elseif replies[shift + item] == 'ok' and score ~= '?' then
      local job_id = job_of(item)
      if score == '-' then
        if redis.pcall('ZREM', key, job_id) == 1 then removed[item] = true end
      elseif string.sub(score, 1, 1) == '+' then
        redis.pcall('ZINCRBY', key, string.sub(score, 2), job_id)
      else
        redis.pcall('ZADD', key, score, job_id)
      end
    end
  end
end
