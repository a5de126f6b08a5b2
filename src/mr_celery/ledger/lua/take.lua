-- admitted and claimed stay as they are: a bridge takes what is due; no other one gets it for hold_seconds.
-- ARGV: prefix, (unused), state, limit, hold_seconds.
-- Answers: the ids taken.
local state, limit, hold_seconds = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local ids = redis.call('ZRANGEBYSCORE', prefix .. state, '-inf', stamp(now), 'LIMIT', 0, limit)
for _, job in ipairs(ids) do
  redis.call('ZADD', prefix .. state, stamp(now + hold_seconds), job)
end
return ids
