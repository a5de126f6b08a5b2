-- finished -> finished: one artifact or review is delivered; what the server answered is written down, so
-- that a later delivery goes on from there. Who delivers keeps the job for hold_seconds more.
-- Answers: 1, or 0 where it is not his any more.
local task, number, part, answer, hold_seconds = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
if not carries(task, number) then
  return 0
end
set(part, answer)
tell('delivered', part)
redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), id)
return 1
