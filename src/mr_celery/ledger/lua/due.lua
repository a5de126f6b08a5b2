-- Reads the jobs of a state whose next check is due.
--
-- Keys:    the set of the state
-- ARGV:    prefix, (unused), state, limit
-- Returns: their ids
local state, limit = ARGV[3], ARGV[4]
return redis.call('ZRANGEBYSCORE', prefix .. state, '-inf', now_stamp, 'LIMIT', 0, limit)
