-- The last id that a stream ever had, also when it was trimmed to nothing.
local function last(key)
  if redis.call('EXISTS', key) == 0 then
    return '0-0'
  end
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1]
    end
  end
end
-- KEYS, here and in every script below: the two streams, their bundles, the
-- marks, the checkpoint. Where the streams and the marks stand, as one string.
local function state()
  local m = redis.call('HMGET', KEYS[5], 'decisions', 'outcomes', 'decisions_size', 'outcomes_size', 'sequence', 'start')
  for i = 1, 6 do
    m[i] = m[i] or '-'
  end
  return last(KEYS[1]) .. ' ' .. last(KEYS[2]) .. ' ' .. table.concat(m, ' ')
end
