-- Put in front of the steps of accepted work, so that they succeed if Redis has reached its memory limit. Redis refuses
-- a script only if its first write may take memory, and this one never does. So work can end, which frees memory; only
-- new work (admit, adopt) is refused.
--
-- Keys:    nothing (it never exists)
redis.call('UNLINK', prefix .. 'nothing')
