-- The clock of the server that holds the queues; deadlines go by it.
-- KEYS open_requests
return redis.call('TIME')
