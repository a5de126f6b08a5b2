-- claimed -> sent: the broker took the messages. For each job on its own.
-- ARGV: prefix, (unused), wait_seconds, then id and task id of each.
-- Answers for each: the state the job is in now (a fast worker may have started it already), or false.
local wait_seconds = tonumber(ARGV[3])
local answers = {}
for place = 4, #ARGV, 2 do
  turn_to(ARGV[place])
  local known = get('state', 'task', 'queue', 'attempt')
  local state = known[1]
  if state == 'claimed' and known[2] == ARGV[place + 1] then
    state = 'sent'
    move('claimed', state, now + wait_seconds)
    tell(state, known[3], known[4])
  end
  answers[#answers + 1] = state
end
return answers
