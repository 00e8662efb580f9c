-- In place of _window, for budgets that run for ever.
local function outside() end
local function turn() end

local function add(b, used, expired, granted)
  b.used, b.expired, b.granted = b.used + used, b.expired + expired, b.granted + granted
end

local function uncharge(b, charge)
  b.used, b.expired = b.used - charge, b.expired - charge
end
