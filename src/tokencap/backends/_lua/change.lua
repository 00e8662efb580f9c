-- ARGV: clock, attempt, action (limit, grant, reset), tokens ('': none), period, who ("user host"; '': no note).
-- KEYS: a budget, the list of its changes: "attempt time action tokens limits and used before and after who".
-- Answer: the line, if there is a note of it.
-- Holds are left to their owners or to their leases by a reset: made in another epoch, they count for
-- nothing, so the cost does not grow with them.
local KEPT = 1000

local elsewhen = outside(5, 1)
if elsewhen then return elsewhen end

local action, tokens, who = ARGV[3], ARGV[4], ARGV[6]
-- This very attempt may have been made before, and its answer lost.
local last = who ~= '' and redis.call('LINDEX', KEYS[2], 0)
if last and string.match(last, '^%S+') == attempt then return last end

local b = open(KEYS[1], '')
turn(b, ARGV[5])
local line = { attempt, string.format('%.6f', now), action, tokens == '' and '-' or tokens }

local function note()
  line[#line + 1] = string.format('%.0f', in_force(b, b.configured or UNLIMITED))
  return string.format('%.0f', b.used)
end

local used = note()
if action == 'limit' then
  b.override = tonumber(tokens)
  if b.override then
    save(b, 'o', tokens)
  else
    redis.call('HDEL', KEYS[1], 'o')
    if not b.fresh then save(b, 'm', b.marks) end
  end
elseif action == 'grant' then
  if b.granted_by ~= attempt then
    add(b, 0, 0, tokens)
    b.granted_by, b.turned = attempt, true
  end
  save(b, 'm', b.marks)
else
  b.epoch = b.epoch + 1
  b.used, b.reserved, b.calls, b.expired = 0, 0, 0, 0
  b.before, b.previous, b.left, b.granted, b.marks = '-', 0, 0, 0, ''
  b.steps, b.turned = {}, true
  save(b, 'z', now)
end
local after = note()
if who == '' then return '' end
line[#line + 1] = used
line[#line + 1] = after
line[#line + 1] = who
local text = table.concat(line, ' ')
redis.call('LPUSH', KEYS[2], text)
redis.call('LTRIM', KEYS[2], 0, KEPT - 1)
return text
