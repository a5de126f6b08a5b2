-- Reads the runs whose lease has run out; none while patience is due (see patience.lua).
-- ARGV: prefix, (unused), lease, limit. Answers: their ids.
local limit = ARGV[4]
if patient() then
  return {}
end
return redis.call('ZRANGEBYSCORE', prefix .. 'running', '-inf', stamp(now), 'LIMIT', 0, limit)
