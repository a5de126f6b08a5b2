-- A worker is online for `seconds` from now, also if Redis has reached its memory limit: it refuses a script only if
-- the first write may take memory, and HDEL never does.
--
-- ARGV:    hostname, concurrency, digest, seconds, profile (empty: as stored)
-- Returns: whether the profile is stored. If not, the caller announces the worker again, with the profile
local hostname, concurrency, digest, seconds, profile = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
redis.call('HDEL', nodes, '')
local about, key = concurrency .. ' ' .. digest, prefix .. 'profile:' .. digest
local stored = redis.call('EXPIRE', key, day) == 1
if not stored and profile == '' then
  return 0
end
if not stored then
  redis.call('SET', key, profile, 'EX', day)
end
if not stored or redis.call('HGET', nodes, hostname) ~= about then
  redis.call('HSET', nodes, hostname, about)
  note_change(hostname)
end
redis.call('ZADD', online, clock[1] + seconds, hostname)
for _, each in ipairs({nodes, online, changes}) do
  redis.call('EXPIRE', each, day)
end
return 1
