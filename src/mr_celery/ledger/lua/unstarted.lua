-- sent -> sent: a bridge takes the messages that no worker has reported for a while. Other bridges do not get them for
-- `lease` seconds.
-- A queue delivers its messages roughly in order. So a message is left alone, however long it waits, until messages
-- sent overtaken_seconds later have started: then it was overtaken, and is most likely lost. If nothing of the queue
-- was started for silent_seconds, nothing can overtake it, and its own age decides.
-- Each resend doubles both, up to 32 times. So a queue with priorities, which overtakes many messages that are not
-- lost, does not fill up with copies.
--
-- Keys:    sent, reached (see start.lua); of each job: job:<id> (task_id, task_name, queue, why, received, copies,
--          sent_at)
-- ARGV:    prefix, (unused), limit, lease, overtaken_seconds, silent_seconds
-- Returns: for each {id, task_id, task_name, queue, why or '', whether a worker had it, whether it was overtaken,
--          seconds since it was sent}
local limit, lease = tonumber(ARGV[3]), tonumber(ARGV[4])
local overtaken_seconds, silent_seconds = tonumber(ARGV[5]), tonumber(ARGV[6])
local queues = {}

-- The progress of a queue: the newest sending time of a started message, and the seconds since one was started.
local function progress(queue)
  if not queues[queue] then
    local newest, last_at = unpack(redis.call('HMGET', prefix .. 'reached', queue .. ':sent', queue .. ':at'))
    queues[queue] = {tonumber(newest or 0), now - tonumber(last_at or 0)}
  end
  return unpack(queues[queue])
end

local answer = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'sent', '-inf', now_stamp, 'LIMIT', 0, limit)) do
  redis.call('ZADD', prefix .. 'sent', stamp(now + lease), job)
  local task_id, task_name, queue, why, received, copies, sent_at = unpack(redis.call('HMGET', prefix .. 'job:' .. job,
    'task_id', 'task_name', 'queue', 'why', 'received', 'copies', 'sent_at'))
  if task_id and task_name and queue and sent_at then
    local age, factor = now - tonumber(sent_at), 2 ^ math.min(tonumber(copies or 0), 5)
    local newest, silence = progress(queue)
    local overtaken = newest - tonumber(sent_at) > overtaken_seconds * factor
        or (silence > silent_seconds and age > silent_seconds * factor)
    answer[#answer + 1] = {
      job, task_id, task_name, queue, why or '', received and 1 or 0, overtaken and 1 or 0, stamp(age),
    }
  end
end
return answer
