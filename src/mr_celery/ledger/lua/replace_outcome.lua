-- finished -> finished: the server will never take this outcome; the one that says so is due at once.
-- Answers: 1, or 0 where the job is not being delivered any more.
if get('state')[1] ~= 'finished' then
  return 0
end
redis.call('HDEL', record, 'carrier')
record_outcome('finished', ARGV[3], now)
return 1
