-- The ledger. A book is a stream of calls and, beside it, a hash for each day (of 86,400 seconds):
--   <book>:l        per call: d digest of the label, r the row
--   <book>:y:<day>  l:<digest> the label, s:<digest>:<ending> the sums of the rows of that day
-- and in the hash of a budget
--   a:<id>          what to write when the reservation expires: "rows age day digest stream";
--                   once it has: "x entry day digest charge stream"
-- A row is "ending estimated input output cached written reasoning estimate ms", sums are the same with the
-- number of calls for the ending. The names of days are not in KEYS, for the day is told here; all of a
-- book is in one slot. Who writes names the stream as the last of KEYS, and says last in ARGV: row, rows
-- (of the stream, about), age (seconds), digest, label.
local DAY = 86400

local LEDGER
if string.sub(KEYS[#KEYS] or '', -2) == ':l' then
  LEDGER = { stream = table.remove(KEYS), text = table.remove(ARGV), digest = table.remove(ARGV),
    age = table.remove(ARGV), rows = table.remove(ARGV), row = table.remove(ARGV) }
end
local today = string.format('%.0f', math.floor(now / DAY))

local function page(stream, day)
  return string.sub(stream, 1, -2) .. 'y:' .. day
end

local function sum_up(key, digest, row, sign)
  local field = 's:' .. digest .. ':' .. string.match(row, '^%a+')
  local before = string.gmatch(redis.call('HGET', key, field) or '', '%S+')
  local sums = { string.format('%.0f', (tonumber((before())) or 0) + sign) }
  for amount in string.gmatch(row, ' (%d+)') do
    sums[#sums + 1] = string.format('%.0f', (tonumber((before())) or 0) + sign * amount)
  end
  redis.call('HSET', key, field, table.concat(sums, ' '))
end

local function note_label(to)
  local key = page(to.stream, today)
  if redis.call('HSETNX', key, 'l:' .. to.digest, to.text) == 1 and redis.call('TTL', key) < 0 then
    -- The first of a new day: keep the day for a while and let go of what is too old.
    redis.call('EXPIRE', key, to.age + 2 * DAY)
    redis.call('XTRIM', to.stream, 'MINID', '~', string.format('%.0f', math.max(0, (now - to.age) * 1000)))
  end
  return key
end

local function write(to, row)
  sum_up(note_label(to), to.digest, row, 1)
  if ARGV[1] ~= '' then
    -- A test's clock, which may have been set back.
    local at = string.format('%.0f-*', math.floor(now * 1000))
    local entry = redis.pcall('XADD', to.stream, 'MAXLEN', '~', to.rows, at, 'd', to.digest, 'r', row)
    if type(entry) == 'string' then return entry end
  end
  return redis.call('XADD', to.stream, 'MAXLEN', '~', to.rows, '*', 'd', to.digest, 'r', row)
end

local function expired(charge)
  return 'expired 1 ' .. charge .. ' 0 0 0 0 ' .. charge .. ' 0'
end

-- Remember what to write when reservation `id` expires.
local function announce(b, id)
  note_label(LEDGER)
  redis.call('HSET', b.counter, 'a:' .. id,
    LEDGER.rows .. ' ' .. LEDGER.age .. ' ' .. today .. ' ' .. LEDGER.digest .. ' ' .. LEDGER.stream)
end

local function write_expired(b, id, charge)
  local about = redis.call('HGET', b.counter, 'a:' .. id) or ''
  local rows, age, day, digest, stream = string.match(about, '^(%d+) (%d+) (%S+) (%S+) (.*)$')
  if not rows then return end
  local text = redis.call('HGET', page(stream, day), 'l:' .. digest)
  if not text then return end
  local entry = write({ stream = stream, rows = rows, age = age, digest = digest, text = text }, expired(charge))
  redis.call('HSET', b.counter, 'a:' .. id, table.concat({ 'x', entry, today, digest, charge, stream }, ' '))
end

-- Take back the row that says that reservation `id` expired.
local function unwrite(b, id)
  local about = redis.call('HGET', b.counter, 'a:' .. id) or ''
  local entry, day, digest, charge, stream = string.match(about, '^x (%S+) (%S+) (%S+) (%S+) (.*)$')
  if not entry then return end
  redis.call('XDEL', stream, entry)
  sum_up(page(stream, day), digest, expired(charge), -1)
end
