-- End a request from outside the workers: cancelled, expired, abandoned, or a stop string was found.
-- KEYS journal open readers
-- ARGV id end retention_ms
local kind, next_index = tail(KEYS[1])
if kind == nil then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  unpin(KEYS[2], ARGV[1])
  return 'unknown'
end
if kind == 'e' then return 'ended' end
finish(KEYS[1], KEYS[2], KEYS[3], ARGV[1], next_index, ARGV[2], ARGV[3])
return 'closed'
