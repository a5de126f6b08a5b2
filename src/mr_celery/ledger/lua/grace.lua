-- Prepended to the scripts that look for lost runs. It records the check, and the end of a grace period.
-- If no process has checked for a third of a lease, this server was most likely unreachable. The workers could not
-- renew their leases either, so they get half a lease to do it, in which no run counts as lost.
-- If the last check lies in the future, the clock was set back, or another server with the same data has taken over.
-- Due times more than a lease ahead then become earlier by that difference, so that nothing becomes due too late.
--
-- Keys:    looked, a hash: the time of the last check (at), and the end of the grace period (grace_until); if the clock
--          was set back: the sets of the states, unfinished:<id>, job:<id> (deadline), reached
-- ARGV:    prefix, (unused), lease
local function due_earlier(key, seconds, lease)
  local due = redis.call('ZRANGEBYSCORE', key, '(' .. stamp(now + lease), '+inf', 'WITHSCORES')
  for index = 1, #due, 2 do
    due[index + 1] = stamp(tonumber(due[index + 1]) - seconds)
    redis.call('ZADD', key, due[index + 1], due[index])
  end
  return due
end

local function follow_clock(seconds, lease)
  redis.call('DEL', prefix .. 'reached')
  for _, job in ipairs(redis.call('ZRANGE', prefix .. 'running', 0, -1)) do
    due_earlier(prefix .. 'unfinished:' .. job, seconds, lease)
  end
  for _, state in ipairs({'admitted', 'claimed', 'sent', 'running', 'finished'}) do
    due_earlier(prefix .. state, seconds, lease)
  end
  local deferred = due_earlier(prefix .. 'deferred', seconds, lease)
  for index = 1, #deferred, 2 do
    if redis.call('HEXISTS', prefix .. 'job:' .. deferred[index], 'deadline') == 1 then
      redis.call('HSET', prefix .. 'job:' .. deferred[index], 'deadline', deferred[index + 1])
    end
  end
end

local function in_grace_period()
  local looked, lease = prefix .. 'looked', tonumber(ARGV[3])
  local checked_at, grace_until = unpack(redis.call('HMGET', looked, 'at', 'grace_until'))
  grace_until = tonumber(grace_until or 0)
  local ago = checked_at and now - tonumber(checked_at) or 0
  if ago < -lease / 3 then
    follow_clock(-ago, lease)
  end
  if math.abs(ago) > lease / 3 then
    grace_until = now + lease / 2
  end
  redis.call('HSET', looked, 'at', now_stamp, 'grace_until', stamp(grace_until))
  redis.call('EXPIRE', looked, 86400)
  return now < grace_until
end
