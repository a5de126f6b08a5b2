-- Reads the state of the work, for operators and monitoring.
--
-- Keys:    paused, waiting, undelivered, ended:<how>; job:<id> of the oldest outcome (deliveries, why)
-- ARGV:    prefix, (unused), then periods in seconds
-- Returns: the pause; the oldest of `waiting` as {id, seconds} or {}; the oldest of `undelivered` as {id, seconds,
--          deliveries, why} or {}; then for each period the jobs that ended in it as done, failed, escalated,
--          superseded, aborted
local function oldest(set)
  local job, since = unpack(redis.call('ZRANGE', prefix .. set, 0, 0, 'WITHSCORES'))
  return job and {job, stamp(now - tonumber(since))} or {}
end
local undelivered = oldest('undelivered')
if undelivered[1] then
  local deliveries, why = unpack(redis.call('HMGET', prefix .. 'job:' .. undelivered[1], 'deliveries', 'why'))
  undelivered[3], undelivered[4] = deliveries or 0, why or ''
end
local answer = {redis.call('GET', prefix .. 'paused'), oldest('waiting'), undelivered}
for index = 3, #ARGV do
  local ended = {}
  for place, how in ipairs({'done', 'failed', 'escalated', 'superseded', 'aborted'}) do
    ended[place] = redis.call('ZCOUNT', prefix .. 'ended:' .. how, stamp(now - tonumber(ARGV[index])), '+inf')
  end
  answer[#answer + 1] = ended
end
return answer
