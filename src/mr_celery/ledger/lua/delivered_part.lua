-- finished -> finished: one artifact or review is delivered; what the server answered is written down, so
-- that a later delivery goes on from there. The taker holds the job for hold_seconds more.
-- Answers: 1, or 0 where the job is not being delivered any more.
local part, answer, hold_seconds = ARGV[3], ARGV[4], tonumber(ARGV[5])
if get('state')[1] ~= 'finished' then
  return 0
end
set(part, answer)
redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), id)
return 1
