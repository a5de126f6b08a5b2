-- finished -> finished: a courier takes the outcomes that are due. Other couriers do not get them for
-- `lease` seconds.
-- Each one taken is a delivery. Its number and the attempt's task id are the fencing token of the courier's steps.
--
-- Keys:    finished; of each job: job:<id> (state, task_id, deliveries, deliverer), payload:<id> (outcome)
-- ARGV:    prefix, (unused), limit, lease (seconds)
-- Returns: id, task id and number of each delivery, in one list
local limit, lease = tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'finished', '-inf', now_stamp, 'LIMIT', 0, limit)) do
  local its_record = prefix .. 'job:' .. job
  local state, task_id = unpack(redis.call('HMGET', its_record, 'state', 'task_id'))
  if state == 'finished' and task_id and redis.call('HEXISTS', prefix .. 'payload:' .. job, 'outcome') == 1 then
    redis.call('ZADD', prefix .. 'finished', stamp(now + lease), job)
    redis.call('HSET', its_record, 'deliverer', 'courier')
    taken[#taken + 1] = job
    taken[#taken + 1] = task_id
    taken[#taken + 1] = redis.call('HINCRBY', its_record, 'deliveries', 1)
  else
    -- Its record or its outcome is lost (see mending.lua). Put it off, so that it does not block the others.
    redis.call('HDEL', its_record, 'deliverer')
    redis.call('ZADD', prefix .. 'finished', stamp(now + lease), job)
  end
end
return taken
