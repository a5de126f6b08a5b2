-- finished -> finished: the delivery failed; the courier tries again after wait_seconds.
-- Answers: 1, or 0 where it was not his any more.
local delivery, why, wait_seconds = ARGV[3], ARGV[4], tonumber(ARGV[5])
if not carries(delivery) then
  return 0
end
set('why', why)
redis.call('HDEL', record, 'carrier')
redis.call('ZADD', prefix .. 'finished', stamp(now + wait_seconds), id)
return 1
