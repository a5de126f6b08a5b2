-- claimed | sent | running -> finished: the attempt ended without its handler's doing (hard time limit,
-- revoked, expired, refused by the worker).
-- Answers: 1, or 0 where the attempt is over already.
local task, outcome = ARGV[3], ARGV[4]
local known = get('state', 'task')
local state = known[1]
if known[2] ~= task or not (state == 'claimed' or state == 'sent' or state == 'running') then
  return 0
end
record_outcome(state, outcome, now)
return 1
