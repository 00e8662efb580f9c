-- What every script begins with. A budget has these keys, all in one slot:
--   KEYS, first of each group: a hash
--     l life, n epoch, u used, r reserved, c calls, x expired, o override, f limit as last configured,
--     t thresholds, for whoever looks, z time of the last reset, m marks passed as " share=attempt ..."
--     w window: "period at before previous left granted by": the text of the period ('-': for ever), which
--       window (see _window); the epoch of the one before ('-': none), what was used there and how many of
--       its calls are still held; what was granted for this one and which attempt did it
--     s steps of a rolling window: "step:used:expired:granted ..."
--     h:<id>  a reservation that is alive: "amount charge epoch time"
--     x:<id>  one that expired and may still be corrected: "charge epoch time"
--   KEYS, second of each group: a sorted set of the ids of both, by when they expire or are forgotten
--   a list of what was changed by hand (see change.lua)
--   and, named by the id: a string that says for a while which attempt ended this reservation.
-- Times are seconds, amounts are tokens. ARGV[1] is a test's clock (empty: the server's), ARGV[2]
-- names this attempt, so that the same attempt made twice is told from another one.
-- Numbers go to redis.call as they are, which writes all their digits; ".." and tostring() do not.

local UNLIMITED = 9007199254740991
local ROUNDING = 1e-6

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end
local attempt = ARGV[2]

local function open(counter, id)
  local v = redis.call('HMGET', counter, 'l', 'n', 'u', 'r', 'c', 'x', 'o', 'f', 'z', 'm', 'h:' .. id, 'x:' .. id,
    'w')
  local b = {
    counter = counter,
    fresh = not v[1],
    life = v[1] or (string.format('%.0f', now * 1000000) .. attempt),
    epoch = v[2] or '0',
    used = tonumber(v[3]) or 0,
    reserved = tonumber(v[4]) or 0,
    calls = tonumber(v[5]) or 0,
    expired = tonumber(v[6]) or 0,
    override = tonumber(v[7]),
    configured = tonumber(v[8]),
    reset_at = tonumber(v[9]) or 0,
    marks = v[10] or '',
    hold = v[11],
    lapsed = v[12],
    period = '-',
    before = '-',
    previous = 0,
    left = 0,
    granted = 0,
    granted_by = '-',
  }
  if v[13] then
    local period, at, before, previous, left, granted, by =
      string.match(v[13], '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    b.period, b.window, b.before, b.previous = period, tonumber(at), before, tonumber(previous)
    b.left, b.granted, b.granted_by = tonumber(left), tonumber(granted), by
  end
  return b
end

local function in_force(b, limit)
  return math.min((b.override or limit) + b.granted, UNLIMITED)
end

local function save(b, field, value)
  redis.call('HSET', b.counter, 'l', b.life, 'n', b.epoch, 'u', b.used, 'r', b.reserved, 'c', b.calls,
    'x', b.expired, 'f', b.configured or UNLIMITED, field, value)
  if not b.turned then return end
  local w = string.format('%.0f %s %.0f %.0f %.0f %s', b.window or 0, b.before, b.previous, b.left, b.granted,
    b.granted_by)
  redis.call('HSET', b.counter, 'm', b.marks, 'w', b.period .. ' ' .. w)
  if b.steps then
    local texts = {}
    for at, step in pairs(b.steps) do
      texts[#texts + 1] = string.format('%.0f:%.0f:%.0f:%.0f', at, step[1], step[2], step[3])
    end
    redis.call('HSET', b.counter, 's', table.concat(texts, ' '))
  end
end
