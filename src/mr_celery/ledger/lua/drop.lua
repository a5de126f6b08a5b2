-- admitted -> (nothing): the job is not ours.
-- Answers: 1, or 0 where it is not in that state.
if get('state')[1] ~= 'admitted' then
  return 0
end
redis.call('ZREM', prefix .. 'admitted', id)
free_slot()
redis.call('DEL', record, payload, prefix .. 'story:' .. id)
ring('dropped')
return 1
