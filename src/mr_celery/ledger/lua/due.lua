-- Reads the jobs of one state that somebody must look at now.
-- ARGV: prefix, (unused), state, limit. Answers: their ids.
return redis.call('ZRANGEBYSCORE', prefix .. ARGV[3], '-inf', stamp(now), 'LIMIT', 0, ARGV[4])
