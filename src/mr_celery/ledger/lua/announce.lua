-- A process is online for `seconds` from now.
-- KEYS[1]: hash: its name -> what it is.  KEYS[2]: sorted set: its name -> when it counts as gone.
local name, about, seconds = ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], name, about)
redis.call('ZADD', KEYS[2], clock[1] + seconds, name)
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, 86400)
end
