-- Forgets the processes that are gone. Keys as in announce.lua.
-- Answers: what the others are.
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', redis.call('TIME')[1])
for _, name in ipairs(gone) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return redis.call('HVALS', KEYS[1])
