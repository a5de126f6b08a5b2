-- finished -> finished: a courier takes outcomes that are due; no other one gets them for hold_seconds. Each taking is
-- one delivery, and its number is the fencing token of what the courier writes down.
-- ARGV: prefix, (unused), limit, hold_seconds.
-- Answers: id, delivery, id, delivery, ...
local limit, hold_seconds = tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'finished', '-inf', stamp(now), 'LIMIT', 0, limit)) do
  redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), job)
  redis.call('HDEL', prefix .. 'job:' .. job, 'carrier')
  taken[#taken + 1] = job
  taken[#taken + 1] = redis.call('HINCRBY', prefix .. 'job:' .. job, 'deliveries', 1)
end
return taken
