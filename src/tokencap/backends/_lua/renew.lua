-- ARGV: clock, attempt, lease, then per budget: how many ids, the ids.
-- Answer: the positions, counted over all ids, of those that are alive.
local lease, at, position, alive = ARGV[3], 4, 0, {}
for i = 1, #KEYS / 2 do
  local count = tonumber(ARGV[at])
  for j = 1, count do
    local id = ARGV[at + j]
    local score = redis.call('ZSCORE', KEYS[2 * i], id)
    position = position + 1
    if score and tonumber(score) > now and redis.call('HEXISTS', KEYS[2 * i - 1], 'h:' .. id) == 1 then
      redis.call('ZADD', KEYS[2 * i], now + lease, id)
      alive[#alive + 1] = position
    end
  end
  at = at + count + 1
end
return table.concat(alive, ' ')
