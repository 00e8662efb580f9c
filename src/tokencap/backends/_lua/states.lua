-- ARGV: clock, attempt, then the configured limit of each budget. Answer: their states, joined by ';'.
local answer = {}
for i = 1, #KEYS / 2 do
  local b = open(KEYS[2 * i - 1], '')
  if b.calls > 0 then sweep(b, KEYS[2 * i], '') end
  answer[i] = state(b, tonumber(ARGV[2 + i]))
end
return table.concat(answer, ';')
