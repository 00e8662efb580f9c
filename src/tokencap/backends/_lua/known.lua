-- KEYS: budgets. Answer: lines of "limit override name period thresholds"
-- ('-': none, but of thresholds nothing).
local lines = {}
for i, key in ipairs(KEYS) do
  local v = redis.call('HMGET', key, 'f', 'o', 'k', 'w', 't')
  lines[i] = (v[1] or '-') .. ' ' .. (v[2] or '-') .. ' ' .. (v[3] or '-')
    .. ' ' .. string.match(v[4] or '-', '^%S+') .. ' ' .. (v[5] or '')
end
return table.concat(lines, '\n')
