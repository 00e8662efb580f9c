-- ARGV: clock, attempt, cursor, pattern. Answer: lines of the next cursor and the keys found.
local found = redis.call('SCAN', ARGV[3], 'MATCH', ARGV[4], 'COUNT', 1000)
table.insert(found[2], 1, found[1])
return table.concat(found[2], '\n')
