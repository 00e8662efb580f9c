-- Return whether the mark is passed now. Passed by this very attempt, whose answer was lost, is now.
local function pass(b, share)
  local by = string.match(b.marks, ' ' .. string.gsub(share, '%p', '%%%0') .. '=(%S+)')
  if by then return by == attempt end
  b.marks = b.marks .. ' ' .. share .. '=' .. attempt
  b.marked = true
  return true
end
