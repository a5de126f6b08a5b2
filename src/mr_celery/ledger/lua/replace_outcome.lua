-- finished -> finished: the server will never accept this outcome. The outcome that replaces it says so, and is due at once.
--
-- Keys:    job:<id> (status, reason, deliverer), payload:<id> (outcome, failures), finished, stats
-- ARGV:    prefix, id, task_id, number (of the delivery), status, outcome, reason (or ''), note, failures
--          (replaces those kept before)
-- Returns: 1, or 0 if another delivery has taken over, or none is due
local task_id, number, status, outcome = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local reason, note, failures = ARGV[7], ARGV[8], ARGV[9]
if not is_delivering(task_id, number) then
  return 0
end
redis.call('HDEL', record, 'deliverer')
if failures == '' then
  redis.call('HDEL', payload, 'failures')
else
  redis.call('HSET', payload, 'failures', failures)
end
record_outcome('finished', status, outcome, now, reason)
add_event('refused', note)
count('deliveries:refused')
return 1
