-- claimed | sent -> claimed (the same attempt), or -> finished when the budget is spent: nobody started it.
-- A budget below 0 is no budget: the sending is not counted.
-- Answers: 'again' | 'failed' | 'kept' (it was started, or is over).
local task, why, budget, wait_seconds, outcome = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local known = get('state', 'task', 'resends')
local state = known[1]
if not (state == 'sent' or state == 'claimed') or known[2] ~= task then
  return 'kept'
end
set('why', why)
redis.call('HDEL', record, 'held')
redis.call('HINCRBY', record, 'copies', 1)
if budget >= 0 then
  local resends = tonumber(known[3]) + 1
  set('resends', resends)
  if resends > budget then
    record_outcome(state, 'failed', outcome, now)
    tell('finished', 'failed: no worker started it: ' .. why)
    return 'failed'
  end
end
move(state, 'claimed', now + wait_seconds)
tell('unstarted', why)
count('resends')
return 'again'
