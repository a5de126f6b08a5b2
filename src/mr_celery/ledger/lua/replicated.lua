-- Prepended to the scripts that wait for replicas: a write, even if the step finds its work done. A connection that has
-- written nothing has nothing to wait for.
--
-- Keys:    replicated, a string: the time of the last such step
redis.call('SET', prefix .. 'replicated', now_stamp)
