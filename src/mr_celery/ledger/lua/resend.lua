-- claimed | sent -> claimed (the same attempt), or -> finished if the budget is spent: no worker started its message.
-- If only the handler could make that message (field own, see retry.lua), it cannot be sent again. Then the next
-- attempt begins, or the job fails if it may not run again.
--
-- Keys:    job:<id> (why, received, copies, resends, reason), payload:<id> (outcome), the sets of the states, stats
-- ARGV:    prefix, id, task_id, why, budget (of resends; below 0: this one does not count), wait_seconds, outcome (if
--          the budget is spent), task_name (of the message that did not start; '': none)
-- Returns: 'again' | 'failed' | 'kept' (it was started, or is over)
local task_id, why, budget, wait_seconds, outcome = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local state, current_task_id, task_name, resends, own, attempt, max_attempts, nonce, on_lost = get(
  'state', 'task_id', 'task_name', 'resends', 'own', 'attempt', 'max_attempts', 'nonce', 'on_lost')
if not (state == 'claimed' or state == 'sent') or current_task_id ~= task_id or is_other_task(ARGV[8], task_name) then
  return 'kept'
end
set('why', why)
redis.call('HDEL', record, 'received')
redis.call('HINCRBY', record, 'copies', 1)
if own then
  attempt = tonumber(attempt or 1)
  if on_lost == 'fail' or attempt >= tonumber(max_attempts or 1) then
    local reason = 'the message of its retry was lost: ' .. why
    record_outcome(state, 'failed', outcome, now, reason)
    add_event('finished', described('failed', reason))
    return 'failed'
  end
  begin_attempt(attempt + 1, nonce)
  move(state, 'claimed', now + wait_seconds)
  add_event('lost', 'the message of its retry, which only the handler can make, was lost')
  count('resends')
  return 'again'
end
if budget >= 0 then
  resends = tonumber(resends or 0) + 1
  set('resends', resends)
  if resends > budget then
    local reason = 'no worker started it: ' .. why
    record_outcome(state, 'failed', outcome, now, reason)
    add_event('finished', described('failed', reason))
    return 'failed'
  end
end
move(state, 'claimed', now + wait_seconds)
add_event('unstarted', why)
count('resends')
return 'again'
