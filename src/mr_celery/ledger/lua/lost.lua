-- Reads the runs whose lease has expired, and the deferred jobs whose deadline has passed; none in a grace period (see
-- grace.lua).
--
-- Keys:    running, deferred, looked
-- ARGV:    prefix, (unused), lease, limit
-- Returns: their ids
local limit = ARGV[4]
if in_grace_period() then
  return {}
end
local ids = redis.call('ZRANGEBYSCORE', prefix .. 'running', '-inf', now_stamp, 'LIMIT', 0, limit)
for _, job in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'deferred', '-inf', now_stamp, 'LIMIT', 0, limit)) do
  ids[#ids + 1] = job
end
return ids
