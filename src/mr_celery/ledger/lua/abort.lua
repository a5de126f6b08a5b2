-- claimed | sent | running | finished -> aborted: an operator ended the job on the server.
-- Answers: the task id of the attempt that was aborted, or false where there is nothing to abort.
local why, history = ARGV[3], ARGV[4]
local known = get('state', 'task')
local state = known[1]
if not (state == 'claimed' or state == 'sent' or state == 'running' or state == 'finished') then
  return false
end
set('why', why)
tell('aborted', why)
count('aborted')
finish_off(state, 'aborted', 'aborted', history)
ring('aborted')
return known[2]
