-- running -> claimed (attempt + 1), or -> finished if the job may not run again: a member of its workflow was lost.
--
-- Keys:    job:<id> (losses, reason), payload:<id> (outcome), members:<id>, unfinished:<id>, running, claimed, finished,
--          stats
-- ARGV:    prefix, id, task_id, member_id ('': no member is unfinished), state (that the member must be in; 'unstarted':
--          it must not have started), retries (or ''), holder (or ''), due (1: its check must be due), why, and two
--          outcomes: if the handler must not run twice, and if this was the last attempt; task_name (of its message;
--          '': any)
-- Returns: 'again' | 'failed' | 'kept' (the member continues, or the workflow is over)
local task_id, member_id, wanted, retries, holder = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local must_be_due, why, must_not_outcome, too_often_outcome = ARGV[8] == '1', ARGV[9], ARGV[10], ARGV[11]
local name = ARGV[12]
if not_in_workflow(task_id) then
  return 'kept'
end
if member_id == '' then
  if not get('handed_over') or redis.call('ZCARD', unfinished()) > 0 then
    return 'kept'
  end
else
  local member = read_member(member_id)
  local state = member and member.state
  local is_wanted = state == wanted or (wanted == 'unstarted' and (state == 'sent' or state == 'received'))
  if not is_wanted or (retries ~= '' and not is_message_of(member, name, tonumber(retries)))
      or (holder ~= '' and member.holder ~= holder) then
    return 'kept'
  end
  if must_be_due and tonumber(redis.call('ZSCORE', unfinished(), member_id) or '+inf') > now then
    return 'kept'
  end
end
return lose_attempt('running', must_be_due and 'lease' or 'process', why, must_not_outcome, too_often_outcome)
