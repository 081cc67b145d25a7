-- Trim the records of settled runs by age, by number and by bytes, one bounded page of each.
--
-- Guarantee: index, record and detail of a run are removed in one step, and the counts of stored runs with them; the
-- totals stay. Successes are trimmed before failures. Any number of nodes may run this at any time: it examines only
-- what is stored, so a second call finds less to do or nothing. Its first write frees memory, so that a full Redis
-- accepts it.
--
-- KEYS
--   1 records  hash: run id -> record
--   2 details  hash: run id -> detail
--   3 runs_s   sorted set: run id -> start; those that succeeded
--   4 runs_f   sorted set: likewise, by the letter of their status
--   5 runs_t   sorted set
--   6 runs_d   sorted set
--   7 runs_c   sorted set
--   8 counts   hash: bytes (stored), m:<minute> (runs by the minute of their start), and the totals, which stay
-- ARGV
--   1 successes_since  epoch ms: successes that started earlier are trimmed
--   2 failures_since   epoch ms: likewise
--   3 most_successes   count
--   4 most_failures    count
--   5 most_bytes       number of bytes: of records and details together
--   6 minutes_since    count: number of a minute; the counts of earlier minutes are removed
--   7 page             count: the most runs that each rule trims in one call, at most 1000
-- Returns
--   {'1' if there may be more to trim, record, record, ...} with the records that were trimmed
-- Cost: O(page × log(runs)); about twelve commands, and five per trimmed run.

local records, details, counts = KEYS[1], KEYS[2], KEYS[8]
local successes, failures = {KEYS[3]}, {KEYS[4], KEYS[5], KEYS[6], KEYS[7]}
local since, most, most_bytes = {ARGV[1], ARGV[2]}, {tonumber(ARGV[3]), tonumber(ARGV[4])}, tonumber(ARGV[5])
local minutes_since, page = tonumber(ARGV[6]), tonumber(ARGV[7])
local trimmed, more = {}, false

-- Returns the oldest `limit` members of some sets together, as {set, id} from old to new; `before` bounds their start.
local function oldest(sets, limit, before)
  local found = {}
  for _, set in ipairs(sets) do
    local rows = redis.call('ZRANGEBYSCORE', set, '-inf', before, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #rows, 2 do found[#found + 1] = {set, rows[i], tonumber(rows[i + 1])} end
  end
  if #sets > 1 then
    table.sort(found, function(a, b)
      if a[3] ~= b[3] then return a[3] < b[3] end
      return a[2] < b[2]
    end)
  end
  for i = #found, limit + 1, -1 do found[i] = nil end
  return found
end

-- Removes rows until `wanted` bytes are freed (nil: all rows); returns the bytes freed.
local function trim(rows, wanted)
  local freed = 0
  for _, row in ipairs(rows) do
    if wanted and freed >= wanted then break end
    local set, id = row[1], row[2]
    local record = redis.call('HGET', records, id) or ''
    freed = freed + #record + redis.call('HSTRLEN', details, id)
    redis.call('ZREM', set, id)
    redis.call('HDEL', records, id)
    redis.call('HDEL', details, id)
    trimmed[#trimmed + 1] = record
  end
  if freed > 0 and type(redis.pcall('HINCRBY', counts, 'bytes', string.format('%.0f', -freed))) ~= 'number' then
    redis.call('HSET', counts, 'bytes', '0') -- it was no number
  end
  return freed
end

local function stored(sets)
  local number = 0
  for _, set in ipairs(sets) do number = number + redis.call('ZCARD', set) end
  return number
end

for i, sets in ipairs({successes, failures}) do
  local aged = oldest(sets, page, '(' .. since[i])
  trim(aged)
  local excess = stored(sets) - most[i]
  if excess > 0 then trim(oldest(sets, math.min(excess, page), '+inf')) end
  more = more or #aged == page or excess > page
end

for _, sets in ipairs({successes, failures}) do
  local excess = (tonumber(redis.call('HGET', counts, 'bytes') or '') or 0) - most_bytes
  if excess > 0 then
    local rows = oldest(sets, page, '+inf')
    local freed = trim(rows, excess)
    if freed < excess and #rows == page then
      -- Trim the rest of these, in later calls, before the next kind.
      more = true
      break
    end
  end
end

local old = {}
for _, field in ipairs(redis.call('HKEYS', counts)) do
  local minute = string.match(field, '^m:(%d+)$')
  if minute and tonumber(minute) < minutes_since then old[#old + 1] = field end
end
for i = 1, #old, 1000 do redis.call('HDEL', counts, unpack(old, i, math.min(i + 999, #old))) end
return {more and '1' or '0', unpack(trimmed)}
