-- any -> the same: a live worker renews the members of workflows that it has: those that wait in it, and those that it
-- runs. Only the worker that started a member renews its run.
--
-- Keys:    of each job: job:<id>, members:<id>, unfinished:<id>
-- ARGV:    prefix, (unused), holder, node, lease, wait_seconds, then job id, task_id, member_id, Celery retries, task name
--          of each member
-- Returns: task id and state of the members whose job the attempt has lost, in one list. 'ended': an operator ended it
local holder, node, lease, wait_seconds = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local lost = {}

local function lose(member_id, why)
  lost[#lost + 1] = member_id
  lost[#lost + 1] = why
end

for index = 7, #ARGV, 5 do
  select_job(ARGV[index])
  local task_id, member_id, retries, name = ARGV[index + 1], ARGV[index + 2], tonumber(ARGV[index + 3]), ARGV[index + 4]
  local state, current_task_id, finished_by = get('state', 'task_id', 'finished_by')
  if current_task_id ~= task_id or not state then
    lose(member_id, state and 'superseded' or 'unknown')
  elseif (state == 'finished' or state == 'closed') and not finished_by then
    lose(member_id, 'ended')
  elseif state == 'aborted' then
    lose(member_id, state)
  elseif state == 'running' then
    local member = read_member(member_id)
    if member and member.state == 'running' then
      if member.holder == holder and member.retries == retries then
        redis.call('ZADD', unfinished(), 'XX', stamp(now + lease), member_id)
      end
    elseif is_message_of(member, name, retries) and (member.state == 'sent' or member.state == 'received') then
      local since = math.max(now, member.since or 0)
      member.holder, member.node = holder, node
      if member.state == 'received' then
        redis.call('ZADD', unfinished(), stamp(now + wait_seconds), member_id)
      else
        write_member(member_id, member, 'received', now + wait_seconds, since)
      end
    end
  end
end
return lost
