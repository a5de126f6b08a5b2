-- Put in front of each step that looks after work which was taken in, so that it is not refused where Redis has
-- reached its memory limit: Redis refuses a script only if its first write may take memory, and this one never does.
-- Work can then end, which makes room; only taking in more (admit, adopt) is refused.
redis.call('UNLINK', prefix .. 'nothing')
