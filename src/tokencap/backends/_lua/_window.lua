-- A period is '-' (for ever), "c text bound bound ..." (the beginnings of the windows of a calendar around
-- what the caller takes for now) or "r text seconds" (the time just gone). Of a calendar b.window is when the
-- window began, of a rolling one the number of its step; a window has STEPS of them.
local STEPS = 60

-- Return what tells the caller our time, if it lies outside of what is known of a period; the periods
-- are ARGV[first] and on.
local function outside(first, count)
  for i = first, first + count - 1 do
    local from, to = string.match(ARGV[i], '^c %S+ %S+ (%S+) .* (%S+)$')
    if from and (now < tonumber(from) or now >= tonumber(to)) then return '!' .. string.format('%.6f', now) end
  end
end

local function steps(b)
  if not b.steps then
    b.steps = {}
    for at, used, expired, granted in string.gmatch(redis.call('HGET', b.counter, 's') or '', '(%S+):(%S+):(%S+):(%S+)') do
      b.steps[tonumber(at)] = { tonumber(used), tonumber(expired), tonumber(granted) }
    end
  end
  b.turned = true
  return b.steps
end

-- Count tokens, or grant some, from now on.
local function add(b, used, expired, granted)
  b.used, b.expired, b.granted = b.used + used, b.expired + expired, b.granted + granted
  if b.rolling then
    local all = steps(b)
    local step = all[b.window] or { 0, 0, 0 }
    all[b.window] = { step[1] + used, step[2] + expired, step[3] + granted }
  end
end

-- Undo a charge made at `at`, unless it is forgotten.
local function uncharge(b, charge, at)
  if b.rolling then
    local step = steps(b)[math.floor(at * STEPS / b.seconds)]
    if not step or step[2] < charge then return end
    step[1], step[2] = step[1] - charge, step[2] - charge
  end
  b.used, b.expired = b.used - charge, b.expired - charge
end

-- Forget what is too old. What lies ahead of a clock that was set back is counted as of now.
local function age(b, window)
  local was, old = b.used, steps(b)
  b.steps, b.window, b.rolling = {}, window, true
  b.used, b.expired, b.granted = 0, 0, 0
  for at, step in pairs(old) do
    if at >= window - STEPS then
      local to = math.min(at, window)
      local new = b.steps[to] or { 0, 0, 0 }
      b.steps[to] = { new[1] + step[1], new[2] + step[2], new[3] + step[3] }
      b.used, b.expired, b.granted = b.used + step[1], b.expired + step[2], b.granted + step[3]
    end
  end
  -- A mark may be passed again once `used` has fallen below it, or nothing is left.
  local limit = in_force(b, b.configured or UNLIMITED)
  b.marks = string.gsub(b.marks, ' (%S+)=%S+', function(share)
    local trigger = math.ceil(limit * share - ROUNDING)
    if b.used < trigger and (was >= trigger or b.used == 0) then return '' end
  end)
end

-- Bring a budget into the window of now.
local function turn(b, period)
  if period == '-' then return end
  local kind, text, rest = string.match(period, '^(%a) (%S+) (.*)$')
  local kept, rolling = b.period ~= '-', kind == 'r'
  local window, last, after, anew, carried
  if rolling then
    b.seconds = tonumber(rest)
    window = math.floor(now * STEPS / b.seconds)
    anew, carried = not kept, kept and text ~= b.period
  else
    for bound in string.gmatch(rest, '%S+') do
      bound = tonumber(bound)
      if bound <= now then last, window = window, bound else after = after or bound end
    end
    anew, carried = not kept, string.sub(b.period, 1, 7) == 'rolling'
    if kept and not carried then
      -- A clock that was set back begins no old window again: the running one goes on until it is over.
      -- Only one that lies further ahead than the next was entered by mistake, and goes on as the next.
      if b.window > window then window = math.min(b.window, after) end
      anew = window > b.window
    end
  end
  b.rolling = rolling
  if window == b.window and text == b.period then return end
  if anew then
    b.before, b.previous, b.left = '-', 0, 0
    if not kept or b.window >= last then b.before, b.previous, b.left = b.epoch, b.used, b.calls end
    b.epoch = string.format('%.0f', b.epoch + 1)
    b.used, b.reserved, b.calls, b.expired, b.marks = 0, 0, 0, 0, ''
    if kept then b.granted = 0 end
  end
  if anew or carried then
    b.steps = rolling and { [window] = { b.used, b.expired, b.granted } } or {}
  elseif rolling then
    age(b, window)
  end
  b.window, b.period, b.turned = window, text, true
end
