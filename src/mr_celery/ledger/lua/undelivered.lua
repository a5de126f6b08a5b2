-- finished -> finished: the delivery failed. The courier tries again after wait_seconds.
--
-- Keys:    job:<id> (why, deliverer), payload:<id> (failures), finished, stats
-- ARGV:    prefix, id, task_id, number (of the delivery), why, wait_seconds, error (request and status, for the stats),
--          failures (kept with the outcome, for the next delivery), route (counted as failed, see tally.lua). The last
--          three may be ''
-- Returns: 1, or 0 if another delivery has taken over, or none is due
local task_id, number, why, wait_seconds, error = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local failures, route = ARGV[8], ARGV[9]
if not is_delivering(task_id, number) then
  return 0
end
set('why', why)
add_event('undelivered', why)
count('deliveries:put_off')
if error ~= '' then
  count('errors:' .. error)
end
if failures ~= '' then
  redis.call('HSET', payload, 'failures', failures)
end
if route ~= '' then
  count('failed:' .. route)
end
end_delivery(now + wait_seconds)
return 1
