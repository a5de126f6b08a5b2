-- finished -> finished: an artifact or review is delivered. The server's response is recorded, so that a later delivery
-- skips it. The delivery's claim on the job is renewed for `lease` seconds.
--
-- Keys:    job:<id> (artifact:<index>, review:<index>), finished, stats
-- ARGV:    prefix, id, task_id, number (of the delivery), part (the field's name), answer, lease
-- Returns: 1, or 0 if another delivery has taken over, or none is due
local task_id, number, part, answer, lease = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
if not is_delivering(task_id, number) then
  return 0
end
set(part, answer)
add_event('delivered', part)
count(string.match(part, '^artifact') and 'passed:upload' or 'passed:review')
redis.call('ZADD', prefix .. 'finished', stamp(now + lease), id)
return 1
