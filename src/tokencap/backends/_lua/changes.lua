-- KEYS: a budget, the list of its changes. Answer: lines, first its name ('-': in its key), then the changes.
local lines = redis.call('LRANGE', KEYS[2], 0, -1)
table.insert(lines, 1, redis.call('HGET', KEYS[1], 'k') or '-')
return table.concat(lines, '\n')
