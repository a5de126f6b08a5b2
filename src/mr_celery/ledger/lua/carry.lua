-- finished -> finished: who delivers the outcome keeps it for hold_seconds more.
-- Answers: 1, or 0 where it is not his any more.
local task, number, hold_seconds = ARGV[3], ARGV[4], tonumber(ARGV[5])
if not carries(task, number) then
  return 0
end
redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), id)
return 1
