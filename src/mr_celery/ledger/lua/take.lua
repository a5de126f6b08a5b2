-- admitted -> admitted, claimed -> claimed: a bridge takes the jobs that are due. Other bridges do not get them for
-- `lease` seconds.
--
-- Keys:    the set of the state
-- ARGV:    prefix, (unused), state, limit, lease
-- Returns: the ids taken
local state, limit, lease = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local ids = redis.call('ZRANGEBYSCORE', prefix .. state, '-inf', now_stamp, 'LIMIT', 0, limit)
for _, job in ipairs(ids) do
  redis.call('ZADD', prefix .. state, stamp(now + lease), job)
end
return ids
