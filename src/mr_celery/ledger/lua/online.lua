-- Reads the processes that are online. Removes those whose time is over, and those that only one of the keys has: if
-- they live, they announce themselves again.
--
-- KEYS:    as in announce.lua
-- Returns: the descriptions of the processes that are online
local now, answer, online = redis.call('TIME')[1], {}, {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  online[name] = true
end
local known = redis.call('HGETALL', KEYS[1])
for index = 1, #known, 2 do
  local name, about = known[index], known[index + 1]
  if online[name] then
    answer[#answer + 1] = about
  else
    redis.call('HDEL', KEYS[1], name)
  end
end
return answer
