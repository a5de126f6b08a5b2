-- running -> running: the first messages of the workflow are published. From now on its members hold the job.
--
-- Keys:    job:<id> (handed_over), members:<id>, unfinished:<id>, running
-- ARGV:    prefix, id, task_id, final, wait_seconds (until the next check of the members)
-- Returns: 1, or 0 if the workflow is over, or does not belong to this attempt
local task_id, final, wait_seconds = ARGV[3], ARGV[4], tonumber(ARGV[5])
if not_in_workflow(task_id) or get('workflow') ~= final then
  return 0
end
set('handed_over', 1)
for _, member_id in ipairs(redis.call('ZRANGE', unfinished(), 0, -1)) do
  local member = read_member(member_id)
  if member and member.state == 'sent' then
    -- The broker may have been unreachable for long.
    local due_at = math.max(now, member.since)
    write_member(member_id, member, 'sent', due_at + wait_seconds, due_at)
  end
end
redis.call('ZADD', prefix .. 'running', stamp(now + wait_seconds), id)
return 1
