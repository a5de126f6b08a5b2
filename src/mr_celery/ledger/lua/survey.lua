-- Reads what the bridge needs to know before it asks the server for work.
-- ARGV: prefix, (unused), then queues. Answers: the time, whether claiming is paused, the number of jobs in each state,
-- in order, and the number of slots taken of each queue, in order.
local answer = {stamp(now), redis.call('EXISTS', prefix .. 'paused')}
for _, state in ipairs({'admitted', 'claimed', 'sent', 'running', 'finished'}) do
  answer[#answer + 1] = redis.call('ZCARD', prefix .. state)
end
for index = 3, #ARGV do
  answer[#answer + 1] = redis.call('SCARD', prefix .. 'load:' .. ARGV[index])
end
return answer
