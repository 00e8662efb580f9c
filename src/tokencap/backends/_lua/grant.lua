-- ARGV: clock, attempt, tokens, period.
local elsewhen = outside(4, 1)
if elsewhen then return elsewhen end

local b = open(KEYS[1], '')
turn(b, ARGV[4])
-- This very attempt may have been made before, and its answer lost.
if b.granted_by ~= attempt then
  add(b, 0, 0, ARGV[3])
  b.granted_by, b.turned = attempt, true
end
save(b, 'm', b.marks)
return ''
