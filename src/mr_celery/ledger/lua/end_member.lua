-- any -> the same: the run of a member has ended, and the job goes on. What it published is recorded already.
--
-- Keys:    job:<id>, members:<id>, unfinished:<id>
-- ARGV:    prefix, id, task_id, member_id, run (its nonce), state ('done' | 'replaced' | 'sent': its message was returned
--          to the broker), wait_seconds (until the next check of one that was returned)
-- Returns: 1, or 0 if the member has gone on, or is another attempt's
local task_id, member_id, run, to, wait_seconds = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local state, current_task_id = get('state', 'task_id')
if not state or current_task_id ~= task_id then
  return 0
end
local member = read_member(member_id)
if not member or member.state ~= 'running' or member.run ~= run then
  return 0
end
member.run = to == 'sent' and '' or member.run
write_member(member_id, member, to, now + wait_seconds)
return 1
