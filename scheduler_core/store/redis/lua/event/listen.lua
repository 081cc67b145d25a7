-- Keep the stream of events for a listener, and begin it if it does not exist.
--
-- Guarantee: an epoch belongs to one server and one life of the stream. If another server has become the master, or the
-- same one has restarted, entries may be lost, so a new epoch begins, and a reader finds that its position belongs to
-- another one.
--
-- KEYS
--   1 events     stream: see lib/events.lua
--   2 listening  string: the server (its run id) and the epoch of the stream
-- ARGV
--   1 keep     ms: how long the stream is kept from now on
--   2 channel  text: where nodes receive that a client listens
-- Returns
--   {epoch, number of its latest entry}, as texts
-- Cost: O(1); seven commands. O(entries) if a new epoch begins.

local events, listening = KEYS[1], KEYS[2]
local keep, channel = ARGV[1], ARGV[2]

local info = redis.pcall('INFO', 'server') -- pcall: a user of Redis may not have the right to it
local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or '-'
local known, epoch = string.match(redis.call('GET', listening) or '', '^(%S+) (%d+)$')
local latest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)
local number = '0'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if known == server and #latest > 0 and string.match(latest[1][1], '^%d+') == epoch then
  number = string.match(latest[1][1], '%d+$')
else
  redis.call('DEL', events)
  epoch = string.format('%.0f', math.max(now, (tonumber(epoch) or 0) + 1))
  redis.call('XADD', events, epoch .. '-0', 'b', '0', 't', string.format('%.0f', now), 'e', '')
  redis.call('PUBLISH', channel, 'watched')
end
redis.call('SET', listening, server .. ' ' .. epoch, 'PX', keep)
redis.call('PEXPIRE', events, keep)
return {epoch, number}
