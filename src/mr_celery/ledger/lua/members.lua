-- Prepended to the scripts of a workflow's members: the tasks to which a run has handed its job.
--
-- members:<id>, a hash: each member's task id -> state, since when (for 'sent': when it was, or becomes, due), Celery
--   retries, holder, run (a nonce), node, queue, task name; separated by tabs. The states:
--     sent      its message was published
--     received  a worker has its message
--     running   a worker runs it
--     done, failed, replaced (by another signature, which ends with a member of the same task id)
-- unfinished:<id>, a sorted set: the members that are sent, received or running, by the time of their next check. For
--   those that a worker has, it is the end of their lease.

local lives = {sent = true, received = true, running = true}

local function read_member(member_id)
  local text = redis.call('HGET', members(), member_id)
  if not text then
    return nil
  end
  local parts = {}
  for part in string.gmatch(text .. '\t', '([^\t]*)\t') do
    parts[#parts + 1] = part
  end
  return {
    state = parts[1], since = tonumber(parts[2] or 0) or 0, retries = tonumber(parts[3] or 0) or 0,
    holder = parts[4] or '', run = parts[5] or '', node = parts[6] or '', queue = parts[7] or '', name = parts[8] or '',
  }
end

-- Write a member in a new state. An unfinished one is checked at `due`.
local function write_member(member_id, member, state, due, since)
  member.state, member.since = state, since or now
  redis.call('HSET', members(), member_id, table.concat({
    state, stamp(member.since), member.retries, member.holder, member.run, member.node, member.queue, member.name,
  }, '\t'))
  if lives[state] then
    redis.call('ZADD', unfinished(), stamp(due), member_id)
  else
    redis.call('ZREM', unfinished(), member_id)
  end
end

local function new_member(name, queue, retries)
  return {retries = tonumber(retries) or 0, holder = '', run = '', node = '', queue = queue, name = name}
end

-- Whether a message is that of a member: with the recorded task and number of Celery retries. An empty name: any task.
local function is_message_of(member, name, retries)
  return member ~= nil and member.retries == retries and (name == '' or member.name == name)
end

-- The reason that prevents a step of this attempt's workflow; nil if none does.
local function not_in_workflow(task_id)
  local state, current_task_id, workflow = get('state', 'task_id', 'workflow')
  if not state then
    return 'unknown'
  elseif current_task_id ~= task_id then
    return 'superseded'
  elseif state ~= 'running' then
    return state
  end
  return not workflow and 'no workflow' or nil
end
