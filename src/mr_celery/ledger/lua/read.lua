-- Reads everything about one job.
--
-- Keys:    job:<id>, payload:<id>, parts:<id>
-- ARGV:    prefix, id
-- Returns: the record, and the payload with the parts that are kept after a close, each as a list of names and values in turn
local rest = redis.call('HGETALL', payload)
for _, each in ipairs(redis.call('HGETALL', kept_parts())) do
  rest[#rest + 1] = each
end
return {redis.call('HGETALL', record), rest}
