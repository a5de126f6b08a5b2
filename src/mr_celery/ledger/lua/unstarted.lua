-- sent -> sent: a bridge takes messages of which no worker has told for a while; no other one gets them for hold_seconds.
-- A queue hands out its messages about in order. So a message that is still in it waits its turn, however long that
-- takes, until others that were sent `patience` seconds after it are started: then it is overtaken, and most likely lost.
-- Where nothing of the queue was started for `silence` seconds, nothing can overtake it: then its own age tells.
-- Each sending beyond the first doubles both, up to 32 times: so a queue with priorities, in which many are overtaken
-- that are not lost, does not fill up with copies.
-- ARGV: prefix, (unused), limit, hold_seconds, patience, silence.
-- Answers: for each {id, task id, task, queue, why or '', whether a worker had it, whether it is overtaken, seconds since it was sent}.
local limit, hold_seconds = tonumber(ARGV[3]), tonumber(ARGV[4])
local patience, silence = tonumber(ARGV[5]), tonumber(ARGV[6])
local queues = {}

-- Up to which time of sending a queue's messages are started, and for how long none was.
local function progress(queue)
  if not queues[queue] then
    local known = redis.call('HMGET', prefix .. 'reached', queue .. ':sent', queue .. ':at')
    queues[queue] = {tonumber(known[1] or 0), now - tonumber(known[2] or 0)}
  end
  return unpack(queues[queue])
end

local answer = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'sent', '-inf', stamp(now), 'LIMIT', 0, limit)) do
  redis.call('ZADD', prefix .. 'sent', stamp(now + hold_seconds), job)
  local known = redis.call('HMGET', prefix .. 'job:' .. job, 'task', 'route', 'queue', 'why', 'held', 'copies', 'sent_at')
  if known[7] then
    local sent_at, times = tonumber(known[7]), 2 ^ math.min(tonumber(known[6] or 0), 5)
    local reached, silent = progress(known[3])
    local overtaken = reached - sent_at > patience * times
        or (silent > silence and now - sent_at > silence * times)
    answer[#answer + 1] = {
      job, known[1], known[2], known[3], known[4] or '', known[5] and 1 or 0, overtaken and 1 or 0, stamp(now - sent_at),
    }
  end
end
return answer
