-- Jobs are admitted again. Answers: 1, or 0 where it was not paused.
local was_paused = redis.call('DEL', prefix .. 'paused')
ring('resumed')
return was_paused
