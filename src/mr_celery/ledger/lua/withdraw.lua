-- A process goes offline.
--
-- KEYS:    as in announce.lua
-- ARGV:    name
local name = ARGV[1]
redis.call('HDEL', KEYS[1], name)
redis.call('ZREM', KEYS[2], name)
