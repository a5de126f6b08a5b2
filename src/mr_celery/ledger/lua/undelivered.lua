-- finished -> finished: the delivery failed; the courier tries again after wait_seconds.
-- Answers: 1, or 0 where the job is not being delivered any more.
local why, wait_seconds = ARGV[3], tonumber(ARGV[4])
if get('state')[1] ~= 'finished' then
  return 0
end
set('why', why)
redis.call('HDEL', record, 'carrier')
redis.call('ZADD', prefix .. 'finished', stamp(now + wait_seconds), id)
return 1
