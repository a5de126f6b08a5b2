-- claimed | sent | running -> finished: the attempt ended without its handler's doing (hard time limit,
-- revoked, expired, refused by the worker). `unstarted` = 1: what is known is only that a message of it did not start:
-- the run of another copy goes on. So it does where retries and holder are given, and are not those of the run.
-- Answers: 1, or 0 where the attempt is over already.
local task, unstarted, retries, holder = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local status, outcome, note = ARGV[7], ARGV[8], ARGV[9]
local known = get('state', 'task', 'retries', 'holder')
local state = known[1]
local waiting = state == 'claimed' or state == 'sent'
if known[2] ~= task or (retries ~= '' and known[3] ~= retries) then
  return 0
end
local its_own = state == 'running' and unstarted == '0' and (holder == '' or known[4] == holder)
if not (waiting or its_own) then
  return 0
end
record_outcome(state, status, outcome, now)
tell('finished', status .. (note ~= '' and ': ' .. note or ''))
return 1
