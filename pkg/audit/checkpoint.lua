-- ARGV: the two notes, the ledger address and the sizes that they are of. A
-- checkpoint never goes back, and never runs ahead of what is here.
local m = redis.call('HMGET', KEYS[5], 'sequence', 'decisions_size', 'outcomes_size')
for i = 1, 3 do
  if not m[i] or tonumber(m[i]) < tonumber(ARGV[i + 2]) then
    return 0
  end
end
local have = tonumber(redis.call('HGET', KEYS[6], 'sequence') or '-1')
if have and have >= tonumber(ARGV[3]) and have <= tonumber(m[1]) then
  return 0
end
redis.call('HSET', KEYS[6], 'decisions', ARGV[1], 'outcomes', ARGV[2], 'sequence', ARGV[3])
return 1
