-- ARGV: clock, attempt, then per mark "budget share". Answer: the numbers of those not passed before.
local passed, budgets = {}, {}
for i = 1, #KEYS / 2 do budgets[i] = open(KEYS[2 * i - 1], '') end
for m = 1, #ARGV - 2 do
  local index, share = string.match(ARGV[2 + m], '^(%S+) (%S+)$')
  if pass(budgets[tonumber(index)], share) then passed[#passed + 1] = m end
end
for _, b in ipairs(budgets) do
  if b.marked then save(b, 'm', b.marks) end
end
return table.concat(passed, ' ')
