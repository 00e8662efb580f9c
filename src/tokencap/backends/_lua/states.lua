-- ARGV: clock, attempt, then the configured limit of each budget, then the period of each.
-- Answer: their states, joined by ';'.
local answer, count = {}, #KEYS / 2

local elsewhen = outside(3 + count, count)
if elsewhen then return elsewhen end

for i = 1, count do
  local b = open(KEYS[2 * i - 1], '')
  turn(b, ARGV[2 + count + i])
  if b.calls > 0 or b.left > 0 then sweep(b, KEYS[2 * i], '') end
  -- One that is only looked at is not made.
  if b.turned and not b.fresh then save(b, 'm', b.marks) end
  answer[i] = state(b, tonumber(ARGV[2 + i]))
end
return table.concat(answer, ';')
