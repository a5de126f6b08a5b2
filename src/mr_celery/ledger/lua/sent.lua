-- claimed -> sent: the broker took the message.
-- Answers: the state the job is in now (a fast worker may have started it already).
local task, wait_seconds = ARGV[3], tonumber(ARGV[4])
local known = get('state', 'task')
if known[1] == 'claimed' and known[2] == task then
  move('claimed', 'sent', now + wait_seconds)
  tell('sent', get('queue')[1])
  return 'sent'
end
return known[1]
