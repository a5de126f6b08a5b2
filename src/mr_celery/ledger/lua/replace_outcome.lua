-- finished -> finished: the server will never take this outcome; the one that says so is due at once.
-- Answers: 1, or 0 where it was not his any more, who delivered it.
local task, number, outcome, note = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if not carries(task, number) then
  return 0
end
redis.call('HDEL', record, 'carrier')
record_outcome('finished', 'failed', outcome, now)
tell('refused', note)
count('deliveries:refused')
return 1
