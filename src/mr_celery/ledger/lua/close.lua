-- finished -> closed: the job is terminal on the server. `how` is delivered or superseded.
-- Answers: 1, or 0 where the job is not in that state.
local how, history = ARGV[3], ARGV[4]
if get('state')[1] ~= 'finished' then
  return 0
end
set('how', how)
finish_off('finished', 'closed', history)
return 1
