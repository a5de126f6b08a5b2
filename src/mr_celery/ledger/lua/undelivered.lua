-- finished -> finished: the delivery failed; the courier tries again after wait_seconds.
-- Answers: 1, or 0 where it was not his any more.
local task, number, why, wait_seconds, error = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if not carries(task, number) then
  return 0
end
set('why', why)
tell('undelivered', why)
count('deliveries:put_off')
if error ~= '' then
  count('errors:' .. error) -- request and status
end
lay_down(now + wait_seconds)
return 1
