-- finished -> finished: renews a delivery's exclusive claim on its job, for `lease` seconds from now.
--
-- Keys:    job:<id> (state, task_id, deliveries, deliverer), finished
-- ARGV:    prefix, id, task_id, number (of the delivery), lease
-- Returns: 1, or 0 if another delivery has taken over, or none is due
local task_id, number, lease = ARGV[3], ARGV[4], tonumber(ARGV[5])
if not is_delivering(task_id, number) then
  return 0
end
redis.call('ZADD', prefix .. 'finished', stamp(now + lease), id)
return 1
