-- The functions that the scripts of the online workers share. This file is prepended to each.
--
-- Keys, all with the prefix "modelreins:{fleet}:":
--   nodes             hash: hostname -> its concurrency, a space, and the digest of its profile
--   online            sorted set: hostname, scored by the time until which it counts as online
--   profile:<digest>  string: a profile as JSON: the queues, tasks and versions that workers have in common
--   changes           sorted set: the last changes: hostname, scored by the number of its last change. Numbers grow with
--                     Redis' clock, so that no number means two things in a ledger that was rolled back. The member ''
--                     has the number from which on the changes are complete
--
-- ARGV: prefix, then those of the script
local prefix, clock, most_changes, day = ARGV[1], redis.call('TIME'), 1000, 86400
local nodes, online, changes = prefix .. 'nodes', prefix .. 'online', prefix .. 'changes'

local function last_change()
  return tonumber(redis.call('ZRANGE', changes, -1, -1, 'WITHSCORES')[2] or 0)
end

-- Numbers the change of a worker. Keeps the last changes only: readers that are further behind read all workers.
local function note_change(hostname)
  local number = string.format('%.0f', math.max(last_change() + 1, clock[1] * 1000000 + clock[2]))
  redis.call('ZADD', changes, 'NX', number, '')
  redis.call('ZADD', changes, number, hostname)
  local excess = redis.call('ZCARD', changes) - most_changes
  if excess > 0 then
    local oldest = redis.call('ZRANGE', changes, excess, excess, 'WITHSCORES')[2]
    redis.call('ZADD', changes, oldest, '')
    redis.call('ZREMRANGEBYSCORE', changes, '-inf', '(' .. oldest)
  end
end

local function remove_node(hostname)
  redis.call('ZREM', online, hostname)
  if redis.call('HDEL', nodes, hostname) == 1 then
    note_change(hostname)
  end
end
