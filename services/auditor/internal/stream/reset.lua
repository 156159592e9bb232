-- Follows the first part of append.lua. ARGV: last ids and marks, as read.
local now = state(0)
for i = 1, 4 do
  if now[i + 1] ~= ARGV[i] then
    return now
  end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return state(1)
