-- running -> deferred: the handler has returned, and the outcome comes from elsewhere (see complete.lua), until a deadline.
--
-- If the ledger was rolled back meanwhile, the run knows the secret that its handler has given away, and stores it again.
--
-- Keys:    job:<id> (deadline, note, secret, shaped), payload:<id> (attached:<n>), running, deferred, load:<queue>, deferring
-- ARGV:    prefix, id, task_id, run (its nonce), seconds, note, known secret (or ''), shaped (as in reference.lua),
--          attachments (an outcome, or ''), then their blobs
-- Returns: 'deferred'   it waits (also if the same run asks again)
--          'completed'  the outcome came before; attachments are added with amend.lua
--          'unreferenced' no run has requested the reference, so nothing could complete the job
--          otherwise the state that prevents it; 'superseded': another run or attempt has the job; 'unknown': no record
local task_id, run, seconds, note = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local known_secret, shaped, attachments = ARGV[7], ARGV[8], ARGV[9]
local state, current_task_id, current_run, finished_by, deadline, task_name, secret = get(
  'state', 'task_id', 'run', 'finished_by', 'deadline', 'task_name', 'secret')
if not state then
  return 'unknown'
elseif current_task_id ~= task_id or current_run ~= run then
  return 'superseded'
elseif (state == 'finished' or state == 'closed') and finished_by == 'ref' then
  return 'completed'
elseif state ~= 'running' then
  return state
elseif not secret and known_secret == '' then
  return 'unreferenced'
end
if not secret then
  set('secret', known_secret, 'shaped', shaped)
end
if attachments ~= '' then
  attach(attachments, 10)
end
deadline = math.max(now + seconds, tonumber(deadline or 0)) -- it may have been extended before
set('deadline', stamp(deadline), 'note', bounded(note))
redis.call('SADD', prefix .. 'deferring', task_name or '')
free_slot()
move('running', 'deferred', deadline)
add_event('deferred', 'its handler has returned')
notify('deferred')
return 'deferred'
