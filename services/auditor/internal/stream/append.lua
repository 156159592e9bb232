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
-- KEYS: the two streams and their marks, here and in every script below. Gives
-- done, the streams' last ids, and the marks: what the last ids were before.
local function state(done)
  local marks = redis.call('HMGET', KEYS[3], 'decisions', 'outcomes')
  return {done, last(KEYS[1]), last(KEYS[2]), marks[1] or '0-0', marks[2] or '0-0'}
end
-- append
-- ARGV: the streams' expected last ids, then for each entry the number of its
-- stream, id, field, record, seal.
local now = state(0)
if now[2] ~= ARGV[1] or now[3] ~= ARGV[2] then
  return now
end
for i = 3, #ARGV, 5 do
  redis.call('XADD', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], 'seal', ARGV[i + 4])
end
local a, b = last(KEYS[1]), last(KEYS[2])
redis.call('HSET', KEYS[3], 'decisions', a, 'outcomes', b)
return {1, a, b, a, b}
