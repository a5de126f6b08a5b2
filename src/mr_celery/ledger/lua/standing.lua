-- Reads how the work stands, for people and machines that watch it.
-- ARGV: prefix, (unused), then seconds. Answers: what `paused` holds; the oldest of `waiting` as {id, seconds} or {}; the
-- oldest of `undelivered` as {id, seconds, deliveries tried, why} or {}; then for each number of seconds how many jobs
-- ended in that time as done, failed, escalated, superseded, aborted.
local function oldest(set)
  local first = redis.call('ZRANGE', prefix .. set, 0, 0, 'WITHSCORES')
  return first[1] and {first[1], stamp(now - tonumber(first[2]))} or {}
end
local undelivered = oldest('undelivered')
if undelivered[1] then
  local known = redis.call('HMGET', prefix .. 'job:' .. undelivered[1], 'deliveries', 'why')
  undelivered[3], undelivered[4] = known[1] or 0, known[2] or ''
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
