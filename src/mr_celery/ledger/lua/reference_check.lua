-- Put in front of the steps that a job's reference (job.ref) permits.

-- Why a reference permits nothing any more, in the words of complete.lua; nil if it does.
local function reference_refusal(attempt, secret)
  local state, current_attempt, current_secret, finished_by = get('state', 'attempt', 'secret', 'finished_by')
  if not state then
    return 'unknown'
  elseif tonumber(attempt) < tonumber(current_attempt or 0) then
    return 'superseded'
  elseif attempt ~= current_attempt or secret ~= current_secret then
    return 'unknown'
  elseif state == 'aborted' then
    return 'aborted'
  elseif state == 'finished' or state == 'closed' then
    return finished_by == 'ref' and 'completed' or 'ended'
  end
end
