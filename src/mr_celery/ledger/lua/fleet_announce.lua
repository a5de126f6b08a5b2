-- A worker is online for `seconds` from now.
-- KEYS[1]: hash: node name -> what it is.  KEYS[2]: sorted set: node name -> when it counts as gone.
local node, about, seconds = ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], node, about)
redis.call('ZADD', KEYS[2], clock[1] + seconds, node)
