local STATE = '%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f'

local function state(b, limit)
  return string.format(STATE, in_force(b, limit), b.used, b.reserved, b.calls, b.expired, b.window or 0,
    b.previous, b.granted)
end
