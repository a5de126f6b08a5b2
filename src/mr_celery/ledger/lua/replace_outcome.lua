-- finished -> finished: the server will never take this outcome; the one that says so is due at once.
-- Answers: 1, or 0 where it was not his any more, who delivered it.
local delivery, outcome = ARGV[3], ARGV[4]
if not carries(delivery) then
  return 0
end
redis.call('HDEL', record, 'carrier')
record_outcome('finished', outcome, now)
return 1
