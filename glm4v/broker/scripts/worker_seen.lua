-- Note that a worker of a queue is running.
-- KEYS queues
-- ARGV queue
redis.call('ZADD', KEYS[1], now_ms(), ARGV[1])
return 1
