-- A worker takes no more tasks. Keys as in fleet_announce.lua.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
