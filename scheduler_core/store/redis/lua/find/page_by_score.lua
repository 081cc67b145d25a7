-- Read members of a sorted set from a place on, by score and then by the bytes of the members.
--
-- Guarantee: reads only. The place need not be in the set any more, so a list continues correctly while its entries
-- change. A script, because many members have equal scores: Redis finds a place among these only by its rank.
--
-- KEYS
--   1 set  sorted set: to read
-- ARGV
--   1 score    score: of the place, or '-inf' or '+inf'
--   2 member   text: of the place
--   3 reverse  0 or 1: 1: from the highest score down
--   4 limit    count: the most members to return
-- Returns
--   {member, score, member, score, ...} of the members after the place, without the place itself
-- Cost: O(log(members)²) to find the place, about 20 commands in a set of a million equal scores, and O(limit).

local set, score, place = KEYS[1], ARGV[1], ARGV[2]
local reverse, limit = ARGV[3] == '1', tonumber(ARGV[4])

-- Compare bytes: the operator < depends on the locale of the server.
local function comes_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Find the rank of the first member that is not before the place.
local low = score == '-inf' and 0 or redis.call('ZCOUNT', set, '-inf', '(' .. score)
local high = redis.call('ZCOUNT', set, '-inf', score)
while low < high do
  local middle = math.floor((low + high) / 2)
  if comes_before(redis.call('ZRANGE', set, middle, middle)[1], place) then low = middle + 1 else high = middle end
end
if reverse then
  if low == 0 then return {} end
  return redis.call('ZREVRANGE', set, -low, math.min(-1, limit - low - 1), 'WITHSCORES')
end
if redis.call('ZRANGE', set, low, low)[1] == place then low = low + 1 end
return redis.call('ZRANGE', set, low, low + limit - 1, 'WITHSCORES')
