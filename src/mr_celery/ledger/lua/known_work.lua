-- Prepended to the scripts that continue jobs already in the ledger, so that they succeed even if Redis has reached its
-- memory limit. Redis refuses a script only if its first write may take memory, and this one never does. So jobs can
-- end, which frees memory; only new jobs (admit, adopt) are refused.
--
-- Keys:    nothing (it never exists)
redis.call('UNLINK', prefix .. 'nothing')
