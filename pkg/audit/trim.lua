-- KEYS: a stream and its bundles. ARGV: the member of the first bundle that is
-- to stay, and its id. Neither command needs memory, so a full Redis is trimmed.
local rank = redis.call('ZRANK', KEYS[2], ARGV[1])
if not rank or rank == 0 then
  return 0
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, rank - 1)
return redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
