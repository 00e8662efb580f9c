local STATE = '%.0f %.0f %.0f %.0f %.0f'

local function state(b, limit)
  return string.format(STATE, b.override or limit, b.used, b.reserved, b.calls, b.expired)
end
