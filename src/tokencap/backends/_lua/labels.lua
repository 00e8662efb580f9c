-- ARGV: clock, attempt, then digests. KEYS: the hash of a day. Answer: lines of their labels ('': none).
local fields = {}
for i = 3, #ARGV do fields[i - 2] = 'l:' .. ARGV[i] end
local lines = redis.call('HMGET', KEYS[1], unpack(fields))
for i = 1, #fields do lines[i] = lines[i] or '' end
return table.concat(lines, '\n')
