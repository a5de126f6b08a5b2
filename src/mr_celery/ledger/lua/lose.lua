-- running -> claimed (attempt + 1), or -> finished when it may not run again: the run was lost.
-- `only_due` = 1: only if its lease has run out by now (the reaper); 0: the worker saw its child die.
-- Answers: 'again' | 'failed' | 'kept' (the run lives, or is over).
local task, only_due, why = ARGV[3], ARGV[4], ARGV[5]
local must_not_outcome, too_often_outcome = ARGV[6], ARGV[7]
local known = get('state', 'task', 'attempt', 'nonce', 'max_attempts', 'on_lost')
if only_due == '0' and known[1] == 'finished' and known[2] == task and redis.call('HDEL', record, 'carrier') == 1 then
  -- It died while it delivered: its outcome is recorded, and a courier need not wait.
  redis.call('ZADD', prefix .. 'finished', stamp(now), id)
  ring('deliver')
  return 'kept'
end
if known[1] ~= 'running' or known[2] ~= task then
  return 'kept'
end
if only_due == '1' and tonumber(redis.call('ZSCORE', prefix .. 'running', id)) > now then
  return 'kept'
end
set('lost', why)
local attempt = tonumber(known[3])
if known[6] == 'fail' then
  record_outcome('running', must_not_outcome, now)
  return 'failed'
elseif attempt >= tonumber(known[5]) then
  record_outcome('running', too_often_outcome, now)
  return 'failed'
end
begin_attempt(attempt + 1, known[4])
move('running', 'claimed', now)
ring('claimed')
return 'again'
