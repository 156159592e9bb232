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
-- append
-- KEYS: the two streams. ARGV: their expected last ids, then for each entry
-- the number of its stream, id, field, record, seal.
local a, b = last(KEYS[1]), last(KEYS[2])
if a ~= ARGV[1] or b ~= ARGV[2] then
  return {0, a, b}
end
for i = 3, #ARGV, 5 do
  redis.call('XADD', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], 'seal', ARGV[i + 4])
end
return {1, last(KEYS[1]), last(KEYS[2])}
