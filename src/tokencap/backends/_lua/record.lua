-- ARGV: clock, attempt, then per row: digest, label, row; the last one as _ledger has it.
for i = 3, #ARGV, 3 do
  write({ stream = LEDGER.stream, rows = LEDGER.rows, age = LEDGER.age, digest = ARGV[i], text = ARGV[i + 1] }, ARGV[i + 2])
end
write(LEDGER, LEDGER.row)
return ''
