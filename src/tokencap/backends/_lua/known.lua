-- KEYS: budgets. Answer: lines of "limit override name" ('-': none).
local lines = {}
for i, key in ipairs(KEYS) do
  local v = redis.call('HMGET', key, 'f', 'o', 'k')
  lines[i] = (v[1] or '-') .. ' ' .. (v[2] or '-') .. ' ' .. (v[3] or '-')
end
return table.concat(lines, '\n')
