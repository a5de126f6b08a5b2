-- Nothing more is admitted from now on, by any bridge. ARGV: prefix, (unused), about: who, when and why, as JSON.
redis.call('SET', prefix .. 'paused', ARGV[3])
ring('paused')
