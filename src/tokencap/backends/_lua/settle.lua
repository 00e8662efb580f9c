-- ARGV: clock, attempt, id, tokens, then per budget its epoch as granted ('-': take back a hold of
-- whatever epoch, and book nothing where there is none), then per budget its period, then per mark
-- "budget share limit".
-- KEYS, third of each group: says which attempt ended this reservation.
-- Answer: '1' (this ended something) or '0', the numbers of the marks passed, then the states; joined by ';'.
local REMEMBER_SETTLED = 900

local id, tokens = ARGV[3], tonumber(ARGV[4])
local count = #KEYS / 3
local budgets, anything, over = {}, false, false

local elsewhen = outside(5 + count, count)
if elsewhen then return elsewhen end

-- Count tokens of a reservation made in `epoch`: now, in the window before, or nowhere.
local function book(b, epoch, used)
  if epoch == b.epoch then
    add(b, used, 0, 0)
    b.touched = true
  elseif epoch == b.before then
    b.previous, b.turned = b.previous + used, true
  end
end

-- The store knows nothing of this reservation. Return whether it ends now, because the store lost it
-- or was reset since; false: it was settled long ago. And the epoch in which it counts, if in any.
local function judge(b, token)
  local life, epoch, time = string.match(token, '^(.*):(%d+):(%d+)$')
  if not life then return true, b.epoch end -- granted by nobody, or by another kind of store
  local since = time / 1000000
  if life ~= b.life then
    if since <= b.reset_at then return true end
    if b.window and not b.rolling and since < b.window then return true, b.before end
    return true, b.epoch
  end
  if epoch ~= b.epoch and epoch ~= b.before then return true end
  local lost = now - since < REMEMBER_SETTLED
  return lost or epoch ~= b.epoch, lost and epoch
end

for i = 1, count do
  local b = open(KEYS[3 * i - 2], id)
  local due, ended, token = KEYS[3 * i - 1], KEYS[3 * i], ARGV[4 + i]
  turn(b, ARGV[4 + count + i])
  local mine = b.hold and string.match(b.hold, '^%d+ %d+ (%d+)')
  local alone = mine and (mine == b.epoch or mine == b.before) and 1 or 0
  if b.calls + b.left > alone then sweep(b, due, id) end
  local ends = b.hold or b.lapsed
  if b.hold then
    local amount, _, epoch = string.match(b.hold, '^(%d+) (%d+) (%d+)')
    redis.call('HDEL', b.counter, 'h:' .. id, 'x:' .. id, 'a:' .. id)
    redis.call('ZREM', due, id)
    if epoch == b.epoch then
      b.reserved = b.reserved - amount
      b.calls = b.calls - 1
    elseif epoch == b.before then
      b.left = b.left - 1
    end
    book(b, epoch, tokens)
  elseif b.lapsed then
    local charge, epoch, at = string.match(b.lapsed, '^(%d+) (%d+) ?(%S*)$')
    unwrite(b, id)
    redis.call('HDEL', b.counter, 'x:' .. id, 'a:' .. id)
    redis.call('ZREM', due, id)
    if epoch == b.epoch then
      uncharge(b, tonumber(charge), tonumber(at) or now)
    elseif epoch == b.before then
      b.previous = b.previous - charge
    end
    book(b, epoch, tokens)
  elseif token ~= '-' then
    local by = redis.call('GET', ended)
    if not by then
      local epoch
      ends, epoch = judge(b, token)
      book(b, epoch, tokens)
    elseif by == attempt then
      -- By this very attempt, whose answer was lost.
      anything = true
    end
  end
  if ends then
    anything, over = true, true
    redis.call('SET', ended, attempt, 'EX', REMEMBER_SETTLED)
  end
  budgets[i] = b
end

if over and LEDGER then write(LEDGER, LEDGER.row) end

local passed, limits = {}, {}
for m = 1, #ARGV - 4 - 2 * count do
  local index, share, limit = string.match(ARGV[4 + 2 * count + m], '^(%S+) (%S+) (%S+)$')
  local b = budgets[tonumber(index)]
  limits[b] = limits[b] or tonumber(limit)
  local reached = b.touched and b.used >= math.ceil(in_force(b, limit) * share - ROUNDING)
  if (reached or not b.touched and string.find(b.marks, '=' .. attempt, 1, true)) and pass(b, share) then
    passed[#passed + 1] = m
  end
end

local answer = { anything and '1' or '0', table.concat(passed, ' ') }
for i, b in ipairs(budgets) do
  -- A reservation that had ended long ago changes nothing, not even the window.
  if b.touched or anything and b.turned then save(b, 'm', b.marks) end
  answer[2 + i] = state(b, limits[b] or b.configured or UNLIMITED)
end
return table.concat(answer, ';')
