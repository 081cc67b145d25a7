-- needs: events
-- Append events that belong to no change of a job: starts of runs, nodes that join or leave, health found by a sweep.
--
-- Guarantee: appends nothing while no client listens. Sent again, it appends the events again.
--
-- KEYS
--   1 events  stream: see lib/events.lua
-- ARGV
--   1 packed  bytes: msgpack: an array that holds one array of events; empty: none
-- Returns
--   1, or 0 if no client listens
-- Cost: O(events).

return append_events(KEYS[1], ARGV[1], nil) and 1 or 0
