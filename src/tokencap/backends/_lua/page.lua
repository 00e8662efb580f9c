-- KEYS: the hash of a day. Answer: lines of "field value".
local fields, lines = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #fields, 2 do lines[#lines + 1] = fields[i] .. ' ' .. fields[i + 1] end
return table.concat(lines, '\n')
