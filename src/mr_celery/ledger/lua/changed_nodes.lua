-- Reads the workers that came, changed or left since the caller's last read. Removes those that have expired, and those
-- that only one of the keys has: live workers announce themselves again. If the last change lies in the future, the
-- clock was set back. All workers are then removed, because their expiry cannot be trusted.
--
-- ARGV:    known (the number of the last change that the caller has read)
-- Returns: the number of the last change; the number of workers; whether all of them follow; pairs of hostname and
--          description, which is empty if the worker has left; pairs of digest and profile
local known, news, profiles, seen = tonumber(ARGV[2]), {}, {}, {}
if last_change() > (clock[1] + 60) * 1000000 then
  redis.call('DEL', nodes, online, changes)
end
for _, hostname in ipairs(redis.call('ZRANGEBYSCORE', online, '-inf', clock[1])) do
  remove_node(hostname)
end
if redis.call('HLEN', nodes) ~= redis.call('ZCARD', online) then
  for _, hostname in ipairs(redis.call('HKEYS', nodes)) do
    if not redis.call('ZSCORE', online, hostname) then
      remove_node(hostname)
    end
  end
  for _, hostname in ipairs(redis.call('ZRANGE', online, 0, -1)) do
    if redis.call('HEXISTS', nodes, hostname) == 0 then
      redis.call('ZREM', online, hostname)
      note_change(hostname)
    end
  end
end

local function add(hostname, about)
  news[#news + 1] = hostname
  news[#news + 1] = about
  local digest = string.match(about, ' (.*)')
  if digest and not seen[digest] then
    seen[digest] = true
    profiles[#profiles + 1] = digest
    profiles[#profiles + 1] = redis.call('GET', prefix .. 'profile:' .. digest) or ''
  end
end

local last, complete_from = last_change(), tonumber(redis.call('ZSCORE', changes, '') or 0)
local whole = known < complete_from or known > last
if whole then
  local all = redis.call('HGETALL', nodes)
  for index = 1, #all, 2 do
    add(all[index], all[index + 1])
  end
elseif known < last then
  for _, hostname in ipairs(redis.call('ZRANGEBYSCORE', changes, '(' .. string.format('%.0f', known), '+inf')) do
    add(hostname, redis.call('HGET', nodes, hostname) or '')
  end
end
return {string.format('%.0f', last), redis.call('HLEN', nodes), whole and 1 or 0, news, profiles}
