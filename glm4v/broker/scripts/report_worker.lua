-- Store what a worker tells of itself, with the time. An empty report removes it.
-- KEYS workers
-- ARGV consumer report
if ARGV[2] == '' then return redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[1], ARGV[1], now_ms() .. ' ' .. ARGV[2])
return 1
