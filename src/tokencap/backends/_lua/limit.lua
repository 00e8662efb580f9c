-- ARGV: clock, attempt, the limit that overrides the configured one ('': none does).
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], 'o')
else
  save(open(KEYS[1], ''), 'o', ARGV[3])
end
return ''
