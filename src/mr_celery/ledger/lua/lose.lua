-- running -> claimed (attempt + 1), or -> finished when it may not run again: the run was lost.
-- Who sees its lease run out (the reaper) gives no retries, and it must have run out; who saw its process die gives the
-- number of Celery retries that the run had, and its holder.
-- Answers: 'again' | 'failed' | 'kept' (the run lives, or is over).
local task, retries, holder, why = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local must_not_outcome, too_often_outcome = ARGV[7], ARGV[8]
local known = get('state', 'task', 'attempt', 'nonce', 'max_attempts', 'on_lost', 'retries', 'carrier', 'holder')
if known[2] ~= task or (retries ~= '' and known[7] ~= retries) or (holder ~= '' and known[9] ~= holder) then
  return 'kept'
end
if retries ~= '' and known[1] == 'finished' and known[8] == 'run' then
  -- It died while it delivered: its outcome is recorded, and a courier need not wait.
  lay_down(now)
  ring('deliver')
  return 'kept'
end
if known[1] ~= 'running' then
  return 'kept'
end
if retries == '' and tonumber(redis.call('ZSCORE', prefix .. 'running', id)) > now then
  return 'kept'
end
set('lost', why)
tell('lost', why)
count('lost:' .. (retries == '' and 'lease' or 'process'))
local attempt = tonumber(known[3])
if known[6] == 'fail' then
  record_outcome('running', 'failed', must_not_outcome, now)
  tell('finished', 'failed: it must not run again')
  return 'failed'
elseif attempt >= tonumber(known[5]) then
  record_outcome('running', 'failed', too_often_outcome, now)
  tell('finished', 'failed: it was lost too often')
  return 'failed'
end
begin_attempt(attempt + 1, known[4])
move('running', 'claimed', now)
ring('claimed')
return 'again'
