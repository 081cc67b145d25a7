-- Library for scripts that change jobs: appends their events to the stream of the shard while a listener is known. A
-- script requests it with its first line, `-- needs: events`.
--
--   append_events(stream, packed, replies)
--
-- Guarantee: an event is appended in the step that makes its change, and only if the change was made, so the events of a
-- job are in the order of its changes. The stream exists while a client listens (event/listen); without it nothing is
-- written. The numbers of entries have no gaps: a reader recognises entries that were trimmed. The stream is bounded in
-- entries and in bytes.
--
-- Arguments
--   stream   key (stream): an entry has the id `<epoch>-<number>` and the fields `b` (bytes of all entries of its
--            epoch up to this one), `t` (epoch ms by this server's clock) and `e` (event; empty: the beginning)
--   packed   msgpack: for each item of the batch an array of its events; empty: no listener is known
--   replies  table: the reply to each item; only those with 'ok' are appended. nil: all are
-- Returns whether a client may listen: false if events were given and the stream does not exist.
-- Cost: O(events); three commands, and one per event.

local function append_events(stream, packed, replies)
  if packed == '' then return true end
  local MOST, BYTES, KEPT_PART = 10000, 8388608, 0.75
  -- Use pcall: a stream of the wrong type, or a full Redis, must not undo the change.
  local latest = redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  if latest.err then return true end
  if #latest == 0 then return false end
  local epoch, number = string.match(latest[1][1], '^(%d+)%-(%d+)$')
  local bytes = tonumber(latest[1][2][2])
  if not epoch or not bytes then return true end
  number = tonumber(number)
  local time = redis.call('TIME')
  local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))

  for i, events in ipairs(cmsgpack.unpack(packed)) do
    if not replies or replies[i] == 'ok' then
      for _, event in ipairs(events) do
        number, bytes = number + 1, bytes + #event
        redis.pcall('XADD', stream, 'MAXLEN', '~', MOST, epoch .. '-' .. string.format('%.0f', number),
          'b', string.format('%.0f', bytes), 't', at, 'e', event)
      end
    end
  end

  for _ = 1, 20 do
    local first = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', 1)
    if first.err or #first == 0 or bytes - (tonumber(first[1][2][2]) or 0) <= BYTES then break end
    local length = redis.pcall('XLEN', stream)
    if type(length) ~= 'number' or length < 2 then break end
    redis.pcall('XTRIM', stream, 'MAXLEN', math.floor(length * KEPT_PART))
  end
  return true
end
