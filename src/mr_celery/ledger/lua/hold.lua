-- running -> running, sent -> sent, finished -> finished: a live worker has these messages: it runs them, or will,
-- or delivers what they ended with.
-- What runs, or is delivered, is held by the worker in which it was started only: another one may have a copy of the
-- message, and knows nothing of the run.
-- ARGV: prefix, (unused), holder, lease, wait_seconds, then id and task id of each.
-- Answers: those that are not the worker's any more, as id, state, id, state, ... 'ended': an operator or a limit ended it.
local holder, lease, wait_seconds = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lost = {}
for index = 6, #ARGV, 2 do
  local job, task = ARGV[index], ARGV[index + 1]
  local known = redis.call('HMGET', prefix .. 'job:' .. job, 'state', 'task', 'carrier', 'holder', 'finished_by')
  local started_here = known[4] == holder
  if known[2] ~= task then
    lost[#lost + 1] = job
    lost[#lost + 1] = known[1] and 'superseded' or 'unknown'
  elseif (known[1] == 'finished' or known[1] == 'closed') and not known[5] then
    lost[#lost + 1] = job
    lost[#lost + 1] = 'ended'
  elseif known[1] == 'running' then
    if started_here then
      redis.call('ZADD', prefix .. 'running', 'XX', stamp(now + lease), job)
    end
  elseif known[1] == 'sent' or known[1] == 'claimed' then
    redis.call('ZADD', prefix .. 'sent', 'XX', 'GT', stamp(now + wait_seconds), job)
    redis.call('HSET', prefix .. 'job:' .. job, 'held', 1)
  elseif known[1] == 'finished' then
    if known[3] == 'run' and started_here then
      redis.call('ZADD', prefix .. 'finished', 'XX', stamp(now + lease), job)
    end
  else
    lost[#lost + 1] = job
    lost[#lost + 1] = known[1]
  end
end
return lost
