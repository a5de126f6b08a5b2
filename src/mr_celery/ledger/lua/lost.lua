-- Reads the runs whose lease has run out.
-- Where nobody has looked for a good part of a lease, this server was most likely away: then the workers could not
-- renew their leases either, and get half a lease to do so. The key is `looked`, a hash: when somebody looked last
-- (at), and until when nothing counts as lost (patient_until).
-- ARGV: prefix, (unused), limit, lease. Answers: their ids.
local limit, lease = ARGV[3], tonumber(ARGV[4])
local looked = prefix .. 'looked'
local known = redis.call('HMGET', looked, 'at', 'patient_until')
local patient_until = tonumber(known[2] or 0)
if known[1] and now - tonumber(known[1]) > lease / 3 then
  patient_until = now + lease / 2
end
redis.call('HSET', looked, 'at', stamp(now), 'patient_until', stamp(patient_until))
redis.call('EXPIRE', looked, 86400)
if now < patient_until then
  return {}
end
return redis.call('ZRANGEBYSCORE', prefix .. 'running', '-inf', stamp(now), 'LIMIT', 0, limit)
