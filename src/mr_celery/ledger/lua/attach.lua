-- running -> running: keeps uploads and reviews of a run whose job will be completed through its reference (see attach
-- in record.lua).
--
-- Keys:    job:<id> (attached), payload:<id> (attached:<n>)
-- ARGV:    prefix, id, task_id, attachments (an outcome with these parts), then their blobs
-- Returns: 1, or 0 if the attempt is over
local task_id, attachments = ARGV[3], ARGV[4]
local state, current_task_id = get('state', 'task_id')
if current_task_id ~= task_id or not (state == 'running' or state == 'deferred') then
  return 0
end
attach(attachments, 5)
return 1
