-- claimed -> sent: the broker took the messages. Each job on its own.
--
-- Keys:    of each job: job:<id> (state, task_id); claimed, sent
-- ARGV:    prefix, (unused), wait_seconds (until the reaper checks), then id and task_id of each job
-- Returns: for each job its state now (a fast worker may have started it), or false
local wait_seconds = tonumber(ARGV[3])
local answers = {}
for place = 4, #ARGV, 2 do
  select_job(ARGV[place])
  local task_id = ARGV[place + 1]
  local state, current_task_id, queue, attempt = get('state', 'task_id', 'queue', 'attempt')
  if state == 'claimed' and current_task_id == task_id then
    state = 'sent'
    move('claimed', state, now + wait_seconds)
    add_event('sent', queue, attempt)
  end
  answers[#answers + 1] = state
end
return answers
