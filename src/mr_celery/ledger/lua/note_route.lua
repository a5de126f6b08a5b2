-- Notes whether the server has a route: it accepted a request, or denied that the route exists.
-- A route that has worked once is not missing: its later 404s have another cause.
--
-- Keys:    routes, a hash: "<route> <server address>" -> "works", or the number of such answers in a row and the time
--          of the first
-- ARGV:    prefix, (unused), route, address, missing (1 or 0)
-- Returns: the number, and the seconds since the first; 0 if the route works
local routes, field, missing = prefix .. 'routes', ARGV[3] .. ' ' .. ARGV[4], ARGV[5] == '1'
local known = redis.call('HGET', routes, field)
local times, first = 0, now
if missing and known ~= 'works' then
  local before, since = string.match(known or '', '^(%d+) (.+)$')
  times, first = (tonumber(before) or 0) + 1, tonumber(since) or now
end
redis.call('HSET', routes, field, times > 0 and times .. ' ' .. stamp(first) or 'works')
redis.call('EXPIRE', routes, 2592000)
return {times, stamp(now - first)}
