-- finished -> finished: a courier takes outcomes that are due; no other one gets them for hold_seconds. Each taking is
-- one delivery, and its number is, with the attempt's task id, the fencing token of what the courier writes down.
-- ARGV: prefix, (unused), limit, hold_seconds.
-- Answers: id, task id, number of the delivery, id, ...
local limit, hold_seconds = tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'finished', '-inf', stamp(now), 'LIMIT', 0, limit)) do
  local its_record = prefix .. 'job:' .. job
  local task = redis.call('HGET', its_record, 'task')
  if task then
    redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), job)
    redis.call('HSET', its_record, 'carrier', 'courier')
    taken[#taken + 1] = job
    taken[#taken + 1] = task
    taken[#taken + 1] = redis.call('HINCRBY', its_record, 'deliveries', 1)
  else
    redis.call('ZREM', prefix .. 'undelivered', job)
    redis.call('ZREM', prefix .. 'finished', job) -- its record is lost: the server's list tells what becomes of it
  end
end
return taken
