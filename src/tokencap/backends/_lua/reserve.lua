-- ARGV: clock, attempt, id, charge, lease, look ('1': hold nothing), most (of an elastic hold, or ''),
-- then per budget "limit ceiling need amount elastic thresholds" (no ceiling: '-'; thresholds after a '+' if
-- they are to be noted, else after a '='), then per budget its period.
-- Answer, per budget: what it holds ('-': refused), its epoch, its state without this call; joined by ';'.
local id, charge, lease = ARGV[3], ARGV[4], ARGV[5]
local budgets, refused, common, count = {}, ARGV[6] == '1', tonumber(ARGV[7]), #KEYS / 2

local elsewhen = outside(8 + count, count)
if elsewhen then return elsewhen end

for i = 1, count do
  local b = open(KEYS[2 * i - 1], id)
  b.due = KEYS[2 * i]
  turn(b, ARGV[7 + count + i])
  -- Without a call in flight nobody can have died.
  if b.calls > 0 or b.left > 0 or b.hold then sweep(b, b.due, id) end
  local limit, ceiling, need, amount, elastic, news, thresholds =
    string.match(ARGV[7 + i], '^(%S+) (%S+) (%S+) (%S+) (%S+) (.)(%S*)$')
  if news == '+' or b.fresh and thresholds ~= '' then b.thresholds = thresholds end
  b.limit, b.need, b.amount, b.elastic = tonumber(limit), tonumber(need), tonumber(amount), elastic == '1'
  if b.hold then
    local mine, _, epoch, time = string.match(b.hold, '^(%d+) (%d+) (%d+) (%d+)$')
    b.mine, b.token = mine, b.life .. ':' .. epoch .. ':' .. time
    if epoch == b.epoch then b.own = tonumber(mine) end
  else
    local most = b.amount
    if ceiling ~= '-' then
      local room = math.floor(in_force(b, b.limit) * ceiling + ROUNDING) - b.used - b.reserved
      if room <= 0 or b.need > room then
        refused, b.full = true, true
      elseif b.elastic and room < most then
        most = room
      end
    end
    if b.elastic and not b.full and (not common or most < common) then common = most end
  end
  budgets[i] = b
end

local answer = {}
for i, b in ipairs(budgets) do
  if b.own then b.reserved, b.calls = b.reserved - b.own, b.calls - 1 end
  local before, held, token = state(b, b.limit), '-', '-'
  if b.own then b.reserved, b.calls = b.reserved + b.own, b.calls + 1 end
  if b.mine then
    if not refused then
      redis.call('ZADD', b.due, now + lease, id)
      if b.turned then save(b, 'm', b.marks) end
    end
    held, token = b.mine, b.token
  elseif not refused then
    local amount = b.elastic and math.max(common, b.need) or b.amount
    b.reserved = b.reserved + amount
    b.calls = b.calls + 1
    b.configured = b.limit
    local time = string.format('%.0f', now * 1000000)
    held = string.format('%.0f', amount)
    save(b, 'h:' .. id, held .. ' ' .. charge .. ' ' .. b.epoch .. ' ' .. time)
    redis.call('ZADD', b.due, now + lease, id)
    if LEDGER and i == 1 then announce(b, id) end
    token = b.life .. ':' .. b.epoch .. ':' .. time
  elseif not b.full then
    held = '0'
  end
  if refused and (b.turned or b.configured ~= b.limit) then
    b.configured = b.limit
    save(b, 'm', b.marks)
  end
  if b.thresholds then redis.call('HSET', b.counter, 't', b.thresholds) end
  answer[i] = held .. ' ' .. token .. ' ' .. before
end
return table.concat(answer, ';')
