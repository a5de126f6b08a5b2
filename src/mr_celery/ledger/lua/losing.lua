-- Prepended to the scripts that lose an attempt: the next one begins, or the job fails if it may not run again.

-- running | deferred -> claimed (attempt + 1), or -> finished. Returns 'again' | 'failed'.
local function lose_attempt(state, counter, why, must_not_outcome, too_often_outcome)
  local attempt, nonce, max_attempts, on_lost = get('attempt', 'nonce', 'max_attempts', 'on_lost')
  set('lost', why)
  add_event('lost', why)
  count('lost:' .. counter)
  local losses = redis.call('HINCRBY', record, 'losses', 1)
  attempt = tonumber(attempt or 1)
  if on_lost == 'fail' then
    record_outcome(state, 'failed', must_not_outcome, now, 'lost, and must not run again: ' .. why)
    add_event('finished', 'failed: it must not run again')
    return 'failed'
  elseif attempt >= tonumber(max_attempts or 1) then
    local times = losses == 1 and 'once' or losses .. ' times'
    record_outcome(state, 'failed', too_often_outcome, now, 'lost ' .. times .. ': ' .. why)
    add_event('finished', 'failed: it was lost too often')
    return 'failed'
  end
  begin_attempt(attempt + 1, nonce)
  take_slot()
  move(state, 'claimed', now)
  notify('claimed')
  return 'again'
end
