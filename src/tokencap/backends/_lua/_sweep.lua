local BATCH = 500
local BATCHES = 10
local REMEMBER_LAPSED = 86400

-- Charge the reservations whose owners died and forget those that were charged long ago, at most
-- BATCH * BATCHES of them; the rest waits for the next script, still counted as reserved.
-- `own`: the id whose records `b` was opened with.
local function sweep(b, due, own)
  for _ = 1, BATCHES do
    local ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, BATCH)
    if #ids == 0 then return end
    local fields = {}
    for i, id in ipairs(ids) do fields[i] = 'h:' .. id end
    local texts = redis.call('HMGET', b.counter, unpack(fields))
    local gone, lapsed, later = {}, {}, {}
    for i, id in ipairs(ids) do
      if texts[i] then
        local amount, charge, epoch = string.match(texts[i], '^(%d+) (%d+) (%d+)')
        -- A hold made before a reset counts for nothing any more.
        if epoch == b.epoch then
          add(b, charge, charge, 0)
          b.reserved = b.reserved - amount
          b.calls = b.calls - 1
        elseif epoch == b.before then
          b.previous, b.left, b.turned = b.previous + charge, b.left - 1, true
        end
        local record = charge .. ' ' .. epoch .. string.format(' %.17g', now)
        if id == own then b.hold, b.lapsed = false, record end
        gone[#gone + 1] = fields[i]
        lapsed[#lapsed + 1] = 'x:' .. id
        lapsed[#lapsed + 1] = record
        later[#later + 1] = now + REMEMBER_LAPSED
        later[#later + 1] = id
        write_expired(b, id, charge)
      else
        if id == own then b.lapsed = false end
        gone[#gone + 1] = 'x:' .. id
        gone[#gone + 1] = 'a:' .. id
      end
    end
    redis.call('HDEL', b.counter, unpack(gone))
    redis.call('ZREM', due, unpack(ids))
    if #lapsed > 0 then
      redis.call('ZADD', due, unpack(later))
      redis.call('HSET', b.counter, unpack(lapsed))
      save(b, 'm', b.marks)
    end
    if #ids < BATCH then return end
  end
end
