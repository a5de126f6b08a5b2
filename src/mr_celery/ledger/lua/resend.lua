-- sent -> claimed (the same attempt), or -> finished when the budget is spent: nobody started it.
-- `only_due` = 1: only if it is due by now (the reaper); 0: a worker saw the message go.
-- Answers: 'again' | 'failed' | 'kept'.
local task, only_due, why, budget = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local wait_seconds, outcome = tonumber(ARGV[7]), ARGV[8]
local known = get('state', 'task', 'resends')
local state = known[1]
if not (state == 'sent' or (state == 'claimed' and only_due == '0')) or known[2] ~= task then
  return 'kept'
end
if only_due == '1' and tonumber(redis.call('ZSCORE', prefix .. 'sent', id)) > now then
  return 'kept'
end
local resends = tonumber(known[3]) + 1
set('why', why, 'resends', resends)
if resends > budget then
  record_outcome(state, outcome, now)
  return 'failed'
end
move(state, 'claimed', now + wait_seconds)
return 'again'
