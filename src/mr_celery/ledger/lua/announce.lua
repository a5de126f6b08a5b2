-- A process is online for `seconds` from now, also if Redis has reached its memory limit: it refuses a script only if
-- the first write may take memory, and HDEL never does.
--
-- KEYS[1]: hash: process name -> its description
-- KEYS[2]: sorted set: process name, scored by the time until which it counts as online
-- ARGV:    name, about (the description as JSON), seconds
local name, about, seconds = ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
redis.call('HDEL', KEYS[1], name)
redis.call('HSET', KEYS[1], name, about)
redis.call('ZADD', KEYS[2], clock[1] + seconds, name)
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, 86400)
end
