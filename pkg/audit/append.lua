-- ARGV: the state expected; the six new marks; how many decisions and outcomes;
-- each one's id, record and seal; how many tile writes; each one's key, offset
-- in bytes and hashes; how many bundles; each one's key, address and member;
-- how many index writes; each one's key, seconds to live (0: for ever) and bytes.
local now = state()
if now ~= ARGV[1] then
  return {0, now}
end
local i = 10
local function entries(key, field, n)
  for _ = 1, n do
    redis.call('XADD', key, ARGV[i], field, ARGV[i + 1], 'seal', ARGV[i + 2])
    i = i + 3
  end
end
entries(KEYS[1], 'decision', tonumber(ARGV[8]))
entries(KEYS[2], 'outcome', tonumber(ARGV[9]))
local function each(write)
  local n = tonumber(ARGV[i])
  i = i + 1
  for _ = 1, n do
    write(ARGV[i], ARGV[i + 1], ARGV[i + 2])
    i = i + 3
  end
end
each(function(key, offset, hashes)
  redis.call('SETRANGE', key, offset, hashes)
end)
each(function(key, address, member)
  redis.call('ZADD', key, address, member)
end)
each(function(key, ttl, bytes)
  redis.call('APPEND', key, bytes)
  if ttl ~= '0' then
    redis.call('EXPIRE', key, ttl)
  end
end)
redis.call('HSET', KEYS[5], 'decisions', ARGV[2], 'outcomes', ARGV[3],
  'decisions_size', ARGV[4], 'outcomes_size', ARGV[5], 'sequence', ARGV[6], 'start', ARGV[7])
return {1, ''}
