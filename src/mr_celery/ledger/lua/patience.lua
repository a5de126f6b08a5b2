-- Put in front of the steps that look for lost runs: it notes the look, and until when nothing counts as lost.
-- Where nobody has looked for a good part of a lease, this server was most likely away: then the workers could not
-- renew their leases either, and get half a lease to do so. The key is `looked`, a hash: when somebody looked last
-- (at), and until when nothing counts as lost (patient_until).
-- ARGV[3] is the lease.
local function patient()
  local looked, lease = prefix .. 'looked', tonumber(ARGV[3])
  local known = redis.call('HMGET', looked, 'at', 'patient_until')
  local patient_until = tonumber(known[2] or 0)
  if known[1] and now - tonumber(known[1]) > lease / 3 then
    patient_until = now + lease / 2
  end
  redis.call('HSET', looked, 'at', stamp(now), 'patient_until', stamp(patient_until))
  redis.call('EXPIRE', looked, 86400)
  return now < patient_until
end
