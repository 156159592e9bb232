-- ARGV: the state expected; keys to delete beside KEYS. Tiles stay: what is
-- filled again writes over them, and nothing is read beyond that.
local now = state()
if now ~= ARGV[1] then
  return {0, now}
end
for i = 1, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
for i = 2, #ARGV do
  redis.call('UNLINK', ARGV[i])
end
return {1, state()}
