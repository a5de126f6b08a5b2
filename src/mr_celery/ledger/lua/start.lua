-- claimed | sent -> running: the fence. Exactly one message of an attempt gets through, and with it the job.
-- A message with more Celery retries than the record belongs to the run that published it, and takes over.
-- The same run asking again (its first answer was lost on the way) gets the same answer.
-- Answers: {'started', job, attempt, trace or ''}, or {the state that stands against it}.
local task, retries, node, holder = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local lease, run = tonumber(ARGV[7]), ARGV[8]
local known = get('state', 'task', 'retries', 'job', 'attempt', 'run', 'trace', 'admitted_at', 'running_at')
local state, recorded = known[1], tonumber(known[3])
if not state then
  return {'unknown'}
elseif known[2] ~= task then
  return {'superseded'}
end
local waiting = (state == 'claimed' or state == 'sent') and retries >= recorded
local continued = state == 'running' and (retries > recorded or known[6] == run)
if not (waiting or continued) then
  return {state}
end
set('retries', retries, 'node', node, 'holder', holder, 'run', run)
move(state, 'running', now + lease)
if not (continued and known[6] == run) then
  tell('started', node, known[5])
  if known[8] and not known[9] then
    observe('pickup', known[8])
  end
end
return {'started', known[4], known[5], known[7] or ''}
