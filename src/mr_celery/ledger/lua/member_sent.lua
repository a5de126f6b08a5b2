-- running -> running: a member of the workflow is about to publish another one, itself as a retry, or what replaces it.
--
-- Keys:    job:<id>, members:<id>, unfinished:<id>
-- ARGV:    prefix, id, task_id, member_id, task_name, queue, retries, seconds (until it is due: its countdown),
--          wait_seconds (until its first check), sender_run (the nonce of the member that publishes)
-- Returns: 1, or 0 if the workflow is over, or the member is further on
local task_id, member_id, name, queue, retries = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local seconds, wait_seconds, sender_run = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
if not_in_workflow(task_id) then
  return 0
end
local member = read_member(member_id)
local continues = member and member.state == 'running' and (member.run == sender_run or retries > member.retries)
if member and not (continues or member.state == 'sent' or member.state == 'replaced') then
  return 0
end
write_member(member_id, new_member(name, queue, retries), 'sent', now + seconds + wait_seconds, now + seconds)
return 1
