-- Library for scripts that settle runs: writes the records of a batch. A script requests it with its first
-- line, `-- needs: record`.
--
--   local book = open_book(first key, history_kept, failures_kept, retention)
--   book.add(history list, failures list, args, first arg, n, keeps)    for each job of the batch
--   book.flush()                                                        once, at the end of the script
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
-- `args` is a table, such as ARGV. If `keeps` is true, the lifetime of a list that exists already stays as it is.
--
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
--   retention      ms after the last entry until both lists expire; one part in 64 more, so that the caller can keep
--                  the lifetime for most entries
-- Entries of the lists: a run is `<letter><fire time><reason> <run id> <bytes stored>`, so that a reader can show it
-- when its record is gone; a miss is 'm<last fire time> ' and its bytes. A history begins with a mark: 'b' and the
-- instant before its first fire time, until an entry leaves it; from then on 'x' and the latest fire time of the
-- trigger that may have left. Only what comes after it is complete. (Of overlapping runs, an earlier one may be
-- recorded after a later one: then the list of a 'b' begins with the earliest that it holds.)
-- Cost: O(n × log(runs)); per job one command or two (more when its history is full), per batch five to twelve.

local function open_book(first, history_kept, failures_kept, retention)
  local LETTERS = 'SFTDC'
  local PAGE = 500
  local records, details, counts = KEYS[first], KEYS[first + 1], KEYS[first + 7]
  local index = {}
  for i = 1, 5 do index[string.sub(LETTERS, i, i)] = KEYS[first + 1 + i] end
  -- Collected since the last flush: the arguments of new runs and their places there; ids of trimmed runs, all and by
  -- letter; their bytes.
  local new, new_at, gone, sizes, gone_by = {}, {}, {}, 0, {}
  local lifetime = string.format('%.0f', math.ceil(tonumber(retention) * 65 / 64))
  local size_texts = {} -- of numbers: most records of a batch have one of a few lengths

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
      for i = 1, #new do ids[i] = new[i][new_at[i] + 1] end
      local known = redis.pcall('HMGET', records, unpack(ids)) -- pcall: a wrong type affects the history only
      if known.err then known = {} end
      local seen, rows, texts, sets, minutes = {}, {}, {}, {}, {}
      local latencies, untimed = 0, 0
      for i = 1, #new do
        local id = ids[i]
        if not known[i] and not seen[id] then
          seen[id] = true
          local entry, _, score, latency, record, detail = unpack(new[i], new_at[i], new_at[i] + 5)
          local letter = string.sub(entry, 1, 1)
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
    new, new_at, gone, sizes, gone_by = {}, {}, {}, 0, {}
  end

  -- Use pcall: a key of the wrong type must fail only its own job, not the batch.
  local function push(list, bound, marks, n, keeps, ...)
    local length = redis.pcall('RPUSH', list, ...)
    if type(length) ~= 'number' then return nil end
    local left
    if length > bound + marks + math.floor(bound / 16) then left = redis.call('LPOP', list, math.min(length - bound, 1000)) end
    if length == n or not keeps then redis.call('PEXPIRE', list, lifetime) end
    return length, left
  end

  -- Returns the earliest fire time of these entries; infinite if none has one.
  local function earliest_of(args, from, n)
    local earliest = math.huge
    for at = from, from + 6 * (n - 1), 6 do
      local text = string.match(args[at], '^%u(%d+)[sr]$') or args[at + 2]
      earliest = math.min(earliest, tonumber(text) or earliest)
    end
    return earliest
  end

  local function add(list, failed, args, from, n, keeps)
    if n == 0 then return true end
    local entries = {}
    for i = 1, n do
      local entry, id, _, _, record, detail = unpack(args, from + 6 * (i - 1), from + 6 * i - 1)
      if string.byte(entry) == 109 then -- m
        entries[i] = entry .. ' ' .. record
      else
        new[#new + 1], new_at[#new_at + 1] = args, from + 6 * (i - 1)
        local size = #record + #detail
        local text = size_texts[size] or string.format('%.0f', size)
        size_texts[size] = text
        entries[i] = entry .. ' ' .. id .. ' ' .. text
      end
    end
    local length, left = push(list, history_kept, 1, n, keeps, unpack(entries))
    -- A new list has no entries for fire times before its first one.
    local begin = false
    if length == n then
      local earliest = earliest_of(args, from, n)
      begin = earliest < math.huge and earliest - 1
    end
    local kept = {}
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
      local _, trimmed = push(failed, failures_kept, 0, #kept, false, unpack(kept))
      for _, entry in ipairs(trimmed or {}) do drop(entry) end
    end
    if #new >= PAGE or #gone >= PAGE then flush() end
    return length ~= nil
  end

  return {add = add, flush = flush}
end
