-- Library for scripts that change jobs: replaces the record of a settled run, to note which run runs it again. A script
-- requests it with its first line, `-- needs: mark`.
--
--   local mark, is_outdated = read_mark(packed, records)       before the first write
--   write_mark(mark, records, details, counts, history, failures)    in the step that requests the new run
--
-- Guarantee: the record is replaced only if it is the one that the caller read, so that of two requests one finds the
-- note of the other. Sizes stay exact: the entry of the run in its job's lists and the total of stored bytes are changed
-- too. Use pcall: a list of the wrong type must not stop the change half way.
--
-- packed    msgpack: an array of run id, record as it was read, record to store, and head of its entry: letter of the
--           status, fire time and letter of the reason; empty: none
-- Cost: O(entries of the lists); two to six commands.

local function read_mark(packed, records)
  if packed == '' then return nil, false end
  local mark = cmsgpack.unpack(packed)
  return mark, redis.call('HGET', records, mark[1]) ~= mark[2]
end

local function write_mark(mark, records, details, counts, history, failures)
  local id, before, after, head = mark[1], mark[2], mark[3], mark[4]
  local beside = redis.pcall('HSTRLEN', details, id)
  if type(beside) ~= 'number' then beside = 0 end
  redis.call('HSET', records, id, after)
  for _, list in ipairs({history, failures}) do
    local at = redis.pcall('LPOS', list, string.format('%s %s %.0f', head, id, #before + beside))
    if type(at) == 'number' then
      redis.pcall('LSET', list, at, string.format('%s %s %.0f', head, id, #after + beside))
      break
    end
  end
  local by = string.format('%.0f', #after - #before)
  if type(redis.pcall('HINCRBY', counts, 'bytes', by)) ~= 'number' then redis.pcall('HSET', counts, 'bytes', '0') end
end
