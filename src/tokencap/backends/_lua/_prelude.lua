-- What every script begins with. A budget has these keys, all in one slot:
--   KEYS, first of each group: a hash
--     l life, n epoch, u used, r reserved, c calls, x expired, o override, f limit as last configured,
--     z time of the last reset, m marks passed as " share=attempt ..."
--     h:<id>  a reservation that is alive: "amount charge epoch time"
--     x:<id>  one that expired and may still be corrected: "charge epoch"
--   KEYS, second of each group: a sorted set of the ids of both, by when they expire or are forgotten
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
  local v = redis.call('HMGET', counter, 'l', 'n', 'u', 'r', 'c', 'x', 'o', 'f', 'z', 'm', 'h:' .. id, 'x:' .. id)
  return {
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
  }
end

local function save(b, field, value)
  redis.call('HSET', b.counter, 'l', b.life, 'n', b.epoch, 'u', b.used, 'r', b.reserved, 'c', b.calls,
    'x', b.expired, 'f', b.configured or UNLIMITED, field, value)
end
