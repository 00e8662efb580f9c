-- ARGV: clock, attempt, id, then per budget what it is to hold instead of more.
for i = 1, #KEYS / 2 do
  local b = open(KEYS[2 * i - 1], ARGV[3])
  local most = ARGV[3 + i]
  local amount, epoch = string.match(b.hold or '', '^(%d+) %d+ (%d+)')
  if amount and tonumber(amount) > tonumber(most) then
    if epoch == b.epoch then b.reserved = b.reserved - amount + most end
    save(b, 'h:' .. ARGV[3], most .. string.match(b.hold, '^%d+( .*)$'))
  end
end
return ''
