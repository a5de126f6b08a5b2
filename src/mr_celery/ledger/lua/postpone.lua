-- running -> claimed: the handler has not begun, because something that it needs fails for a moment. The run gives the
-- attempt back, and the same attempt is sent again later. Each of the first six waits is twice the one before.
-- A message that only the handler could make (field own, see retry.lua) cannot be sent again, so the run keeps it.
--
-- Keys:    job:<id> (postponed, why, received, copies), running, claimed, waiting
-- ARGV:    prefix, id, task_id, run (its nonce), why, times (at most, for an attempt), wait_seconds (the first time)
-- Returns: 'again' | 'spent' (it cannot be given back, and the run goes on) | 'kept' (the run has lost the lease)
local task_id, run, why, times, wait_seconds = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local state, current_task_id, current_run, postponed, own = get('state', 'task_id', 'run', 'postponed', 'own')
if state ~= 'running' or current_task_id ~= task_id or current_run ~= run then
  return 'kept'
end
postponed = tonumber(postponed or 0) + 1
if own or postponed > times then
  return 'spent'
end
set('postponed', postponed, 'why', why)
redis.call('HDEL', record, 'received')
redis.call('HINCRBY', record, 'copies', 1)
move('running', 'claimed', now + wait_seconds * 2 ^ math.min(postponed - 1, 5))
add_event('postponed', why)
return 'again'
