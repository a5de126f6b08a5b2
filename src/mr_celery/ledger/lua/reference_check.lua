-- Prepended to the scripts that a job's reference (job.ref) permits.

-- The reason why a reference permits nothing, as complete.lua returns it; nil if it permits the step.
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
