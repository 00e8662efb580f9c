-- ARGV: clock, attempt, name. KEYS: a budget.
redis.call('HSET', KEYS[1], 'k', ARGV[3])
return ''
