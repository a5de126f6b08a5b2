-- admitted -> (nothing): the job is not ours.
--
-- Keys:    job:<id>, payload:<id>, events:<id> (deleted); admitted, load:<queue>; dropped:<id>, if on_lost is fail
-- ARGV:    prefix, id
-- Returns: 1, or 0 if the job is not admitted
local state, on_lost = get('state', 'on_lost')
if state ~= 'admitted' then
  return 0
end
if on_lost == 'fail' then
  redis.call('SET', prefix .. 'dropped:' .. id, 1, 'PX', 3600000) -- the claim may still happen; the job was never sent
end
redis.call('ZREM', prefix .. 'admitted', id)
free_slot()
redis.call('DEL', record, payload, prefix .. 'events:' .. id)
notify('dropped')
return 1
