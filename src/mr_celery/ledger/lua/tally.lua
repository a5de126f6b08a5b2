-- Reads the counts of all deliveries of the worker name, for one route.
--
-- Keys:    stats
-- ARGV:    prefix, (unused), route (upload, review, close, …)
-- Returns: the time, the requests of the route that succeeded, the deliveries that it put off with an answer that
--          counts (see undelivered.lua), and the jobs closed
local route, stats = ARGV[3], prefix .. 'stats'
local success = route == 'close' and 'deliveries:delivered' or 'passed:' .. route
local passed, failed, closed = unpack(redis.call('HMGET', stats, success, 'failed:' .. route, 'deliveries:delivered'))
return {now_stamp, passed or '0', failed or '0', closed or '0'}
