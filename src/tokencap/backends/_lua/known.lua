-- KEYS: budgets. Answer: lines of "limit override name period" ('-': none).
local lines = {}
for i, key in ipairs(KEYS) do
  local v = redis.call('HMGET', key, 'f', 'o', 'k', 'w')
  lines[i] = (v[1] or '-') .. ' ' .. (v[2] or '-') .. ' ' .. (v[3] or '-')
    .. ' ' .. string.match(v[4] or '-', '^%S+')
end
return table.concat(lines, '\n')
