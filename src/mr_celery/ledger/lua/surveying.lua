-- Prepended to the scripts that read what a bridge needs before it polls the inbox.
--
-- Keys:    paused, the sets of the states, load:<queue>
-- Returns: the time; whether claiming is paused; the number of jobs in each state, in order; the number of slots taken
--          of each queue, in order. The queues are the arguments from `first` on
local function survey_from(first)
  local answer = {now_stamp, redis.call('EXISTS', prefix .. 'paused')}
  for _, state in ipairs({'admitted', 'claimed', 'sent', 'running', 'deferred', 'finished'}) do
    answer[#answer + 1] = redis.call('ZCARD', prefix .. state)
  end
  for index = first, #ARGV do
    answer[#answer + 1] = redis.call('SCARD', prefix .. 'load:' .. ARGV[index])
  end
  return answer
end
