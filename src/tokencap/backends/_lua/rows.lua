-- ARGV: clock, attempt, command, from, to, how many. KEYS: the stream. Answer: lines of "entry digest row".
local lines = {}
for i, found in ipairs(redis.call(ARGV[3], KEYS[1], ARGV[4], ARGV[5], 'COUNT', ARGV[6])) do
  lines[i] = found[1] .. ' ' .. found[2][2] .. ' ' .. found[2][4]
end
return table.concat(lines, '\n')
