-- running -> finished: the outcome, from the run that holds the lease and from no other.
-- It is due for the courier after deliver_seconds; until then, and while its worker holds it, the run delivers it.
-- ARGV: prefix, id, task id, retries, status, outcome, deliver_seconds, then the blobs.
-- Answers: 'finished' (also to the same run asking again), 'carried' (recorded, and a courier has it by now), or the
-- state that stands against it.
local task, retries, status, outcome = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local deliver_seconds = tonumber(ARGV[7])
local known = get('state', 'task', 'retries', 'finished_by', 'carrier', 'route', 'running_at', 'attempt')
if not known[1] then
  return 'unknown'
elseif known[2] ~= task or (known[1] == 'running' and tonumber(known[3]) ~= retries) then
  return 'superseded'
elseif known[1] == 'finished' and known[4] ~= ARGV[4] then
  return 'superseded' -- another outcome is recorded: a time limit's, or an operator's
elseif known[1] == 'finished' then
  return known[5] == 'run' and 'finished' or 'carried'
elseif known[1] ~= 'running' then
  return known[1]
end
for index = 8, #ARGV do
  set('blob:' .. (index - 8), ARGV[index])
end
if deliver_seconds > 0 then
  set('finished_by', retries, 'deliveries', 1, 'carrier', 'run')
else
  set('finished_by', retries, 'deliveries', 0)
end
record_outcome('running', status, outcome, now + deliver_seconds)
tell('finished', status, known[8])
observe('run:' .. known[6], known[7])
return 'finished'
