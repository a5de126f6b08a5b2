-- finished -> finished: who delivers the outcome keeps it for hold_seconds more.
-- Answers: 1, or 0 where it is not his any more.
local delivery, hold_seconds = ARGV[3], tonumber(ARGV[4])
if not carries(delivery) then
  return 0
end
redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), id)
return 1
