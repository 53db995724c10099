-- The clock that deadlines go by: that of the server that keeps the queue.
-- KEYS open
return redis.call('TIME')
