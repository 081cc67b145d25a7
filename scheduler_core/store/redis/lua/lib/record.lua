-- Library for scripts that settle runs: writes the records of a batch. A script requests it with its first
-- line, `-- needs: record`.
--
--   local book = open_book(first key, history_kept, failures_kept, retention)
--   book.add(history list, failures list, first arg, n)    for each job of the batch
--   book.flush()                                           once, at the end of the script
--
-- Guarantee: a record that `add` accepts is in the index of its status if and only if it is in `records`, and the
-- counts contain every run once: a run that is already recorded is not changed, because a settled run is final. A run
-- that leaves a job's history by count and did not succeed moves to the job's failures; a run that leaves both loses
-- its record. If a list has the wrong type, it gets no entry, but the record is stored. The caller's first write has freed
-- memory (HDEL, ZREM), so that a full Redis lets the script finish.
--
-- KEYS from `first key` on
--   1 records  hash: run id -> record
--   2 details  hash: run id -> detail
--   3 runs_s   sorted set: run id -> start, for each status one set
--   4 runs_f   sorted set
--   5 runs_t   sorted set
--   6 runs_d   sorted set
--   7 runs_c   sorted set
--   8 counts   hash: S F T D C (runs), latency (sum, µs), untimed (runs that are not in that sum), bytes (stored),
--              m:<minute> (runs by the minute of their start)
-- ARGV from `first arg` on
--   then for each record, at most 1000
--   * entry    text: letter of the status, fire time and first letter of the reason (S1732154040000s); for a miss 'm'
--              and its last fire time
--   * run_id   text: empty for a miss
--   * score    score: start, epoch ms; for a miss its first fire time
--   * latency  microseconds or empty: of the last attempt, a whole number; empty: unknown
--   * record   bytes
--   * detail   bytes: empty: none
-- Arguments of open_book
--   history_kept   entries kept in a job's history, at least 1; a sixteenth more before it is cut, which is cheaper
--   failures_kept  entries kept in a job's failures list, likewise
--   retention      ms after the last entry until both lists expire
-- Entries of the lists: a run is `<letter><fire time><reason> <run id> <bytes stored>`, so that a reader can show it
-- when its record is gone; a miss is 'm<last fire time> ' and its bytes. A history begins with a mark: 'b' and the
-- instant before its first fire time, until an entry leaves it; from then on 'x' and the latest fire time of the
-- trigger that may have left. Only what comes after it is complete. (Of overlapping runs, an earlier one may be
-- recorded after a later one: then the list of a 'b' begins with the earliest that it holds.)
-- Cost: O(n × log(runs)); per job two commands (three or more when its history is full), per batch five to twelve.

local function open_book(first, history_kept, failures_kept, retention)
  local LETTERS = 'SFTDC'
  local PAGE = 500
  local records, details, counts = KEYS[first], KEYS[first + 1], KEYS[first + 7]
  local index = {}
  for i = 1, 5 do index[string.sub(LETTERS, i, i)] = KEYS[first + 1 + i] end
  -- Collected since the last flush: places in ARGV of new runs; ids of trimmed runs, all and by letter; their bytes.
  local new, gone, sizes, gone_by = {}, {}, 0, {}

  local function drop(entry)
    local letter, id, size = string.match(entry, '^(%u)%d*%l? (%S+) (%d+)$')
    if not letter or not index[letter] then return end
    local ids = gone_by[letter] or {}
    gone_by[letter] = ids
    ids[#ids + 1] = id
    gone[#gone + 1] = id
    sizes = sizes + tonumber(size)
  end

  local function length(key, field)
    local found = redis.pcall('HSTRLEN', key, field)
    return type(found) == 'number' and found or 0
  end

  -- A total that is no number is set to the new value. Use pcall: a settle must not fail half way because of the
  -- totals.
  local function count(field, by)
    local text = string.format('%.0f', by)
    if type(redis.pcall('HINCRBY', counts, field, text)) ~= 'number' then
      redis.pcall('HSET', counts, field, by > 0 and text or '0')
    end
  end

  local function flush()
    local added, bytes = {}, 0

    if #new > 0 then
      local ids = {}
      for i, at in ipairs(new) do ids[i] = ARGV[at + 1] end
      local known = redis.pcall('HMGET', records, unpack(ids)) -- pcall: a wrong type affects the history only
      if known.err then known = {} end
      local seen, rows, texts, sets, minutes = {}, {}, {}, {}, {}
      local latencies, untimed = 0, 0
      for i, at in ipairs(new) do
        local id = ids[i]
        if not known[i] and not seen[id] then
          seen[id] = true
          local letter, score, latency = string.sub(ARGV[at], 1, 1), ARGV[at + 2], ARGV[at + 3]
          local record, detail = ARGV[at + 4], ARGV[at + 5]
          rows[#rows + 1], rows[#rows + 2] = id, record
          if detail ~= '' then texts[#texts + 1], texts[#texts + 2] = id, detail end
          local set = sets[letter] or {}
          sets[letter] = set
          set[#set + 1], set[#set + 2] = score, id
          local minute = math.floor(score / 60000)
          minutes[minute] = (minutes[minute] or 0) + 1
          if latency ~= '' then latencies = latencies + latency else untimed = untimed + 1 end
          bytes = bytes + #record + #detail
        end
      end
      added.latency, added.untimed = latencies, untimed
      for minute, runs in pairs(minutes) do added['m:' .. string.format('%.0f', minute)] = runs end
      if #rows > 0 then redis.pcall('HSET', records, unpack(rows)) end
      if #texts > 0 then redis.pcall('HSET', details, unpack(texts)) end
      for letter, set in pairs(sets) do
        redis.pcall('ZADD', index[letter], unpack(set))
        added[letter] = #set / 2
      end
    end

    if #gone > 0 then
      local found = 0
      for letter, ids in pairs(gone_by) do
        local removed = redis.pcall('ZREM', index[letter], unpack(ids))
        found = found + (type(removed) == 'number' and removed or 0)
      end
      if found < #gone then
        -- Some records were trimmed before, so the sum of the entries' sizes is too large.
        sizes = 0
        local seen = {}
        for _, id in ipairs(gone) do
          if not seen[id] then
            seen[id] = true
            sizes = sizes + length(records, id) + length(details, id)
          end
        end
      end
      redis.pcall('HDEL', records, unpack(gone))
      redis.pcall('HDEL', details, unpack(gone))
      bytes = bytes - sizes
    end

    added.bytes = bytes
    for field, by in pairs(added) do
      if by ~= 0 then count(field, by) end
    end
    new, gone, sizes, gone_by = {}, {}, 0, {}
  end

  -- Use pcall: a key of the wrong type must fail only its own job, not the batch.
  local function push(list, entries, bound, marks)
    local length = redis.pcall('RPUSH', list, unpack(entries))
    if type(length) ~= 'number' then return nil end
    local left = {}
    if length > bound + marks + math.floor(bound / 16) then left = redis.call('LPOP', list, math.min(length - bound, 1000)) end
    redis.call('PEXPIRE', list, retention)
    return left, length
  end

  local function add(list, failed, from, n)
    if n == 0 then return true end
    local entries, earliest = {}, math.huge
    for i = 1, n do
      local at = from + 6 * (i - 1)
      local letter = ARGV[at]
      if string.sub(letter, 1, 1) == 'm' then
        entries[i] = letter .. ' ' .. ARGV[at + 4]
        earliest = math.min(earliest, tonumber(ARGV[at + 2]) or earliest)
      else
        earliest = math.min(earliest, tonumber(string.match(letter, '^%u(%d+)[sr]$') or ARGV[at + 2]) or earliest)
        new[#new + 1] = at
        entries[i] = letter .. ' ' .. ARGV[at + 1] .. ' ' .. string.format('%.0f', #ARGV[at + 4] + #ARGV[at + 5])
      end
    end
    local left, length = push(list, entries, history_kept, 1)
    local kept = {}
    -- A new list has no entries for fire times before its first one.
    local begin = length == n and earliest < math.huge and earliest - 1
    local cut = false
    for _, entry in ipairs(left or {}) do
      local letter = string.sub(entry, 1, 1)
      local fire_time = string.match(entry, '^%u(%d+)[sr] ') or string.match(entry, '^[mxb](%d+)')
      cut = math.max(cut or 0, tonumber(fire_time or 0))
      if letter == 'S' then
        drop(entry)
      elseif index[letter] then
        kept[#kept + 1] = entry
      end
    end
    if cut then
      redis.call('LPUSH', list, 'x' .. string.format('%.0f', math.max(cut, begin or 0)))
    elseif begin then
      redis.call('LPUSH', list, 'b' .. string.format('%.0f', begin))
    end
    if #kept > 0 then
      -- Without a list, failures are trimmed by age alone, as are all runs whose list is lost.
      for _, entry in ipairs(push(failed, kept, failures_kept, 0) or {}) do drop(entry) end
    end
    if #new >= PAGE or #gone >= PAGE then flush() end
    return left ~= nil
  end

  return {add = add, flush = flush}
end
