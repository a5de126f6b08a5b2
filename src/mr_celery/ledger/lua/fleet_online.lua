-- Forgets the workers that are gone. Keys as in fleet_announce.lua.
-- Answers: what the others are.
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', redis.call('TIME')[1])
for _, node in ipairs(gone) do
  redis.call('HDEL', KEYS[1], node)
  redis.call('ZREM', KEYS[2], node)
end
return redis.call('HVALS', KEYS[1])
