-- finished -> finished: the courier takes what is due; nobody else gets it for hold_seconds.
-- ARGV: prefix, (unused), limit, hold_seconds.
-- Answers: the ids taken.
local limit, hold_seconds = tonumber(ARGV[3]), tonumber(ARGV[4])
local ids = redis.call('ZRANGEBYSCORE', prefix .. 'finished', '-inf', stamp(now), 'LIMIT', 0, limit)
for _, job in ipairs(ids) do
  redis.call('ZADD', prefix .. 'finished', stamp(now + hold_seconds), job)
  redis.call('HINCRBY', prefix .. 'job:' .. job, 'deliveries', 1)
end
return ids
