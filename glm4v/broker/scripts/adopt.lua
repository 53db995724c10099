-- Move an open request of the previous release to the keys of this one, and queue it again. A language worker
-- that misses its embedding lets it wait for its image.
-- KEYS former_open former_readers former_flight open_requests reader_deadlines queues jobs:lm
-- ARGV id fingerprint prior_attempts
-- Returns 1, or 0 when it was moved before.
local former_open, former_readers, former_flight, open_requests, reader_deadlines, queues, jobs = unpack(KEYS)
local id, fingerprint, prior_attempts = unpack(ARGV)
local deadline_ms = redis.call('ZSCORE', former_open, id)
if not deadline_ms then return 0 end
redis.call('ZADD', open_requests, deadline_ms, id)
redis.call('ZADD', reader_deadlines, redis.call('ZSCORE', former_readers, id) or deadline_ms, id)
if fingerprint ~= '' then
  register_queue(queues, 'lm:' .. fingerprint)
  redis.call('XADD', jobs, '*', 'r', id, 'l', prior_attempts, 'v', FORMAT)
  redis.call('DEL', former_flight)
end
redis.call('ZREM', former_open, id)
redis.call('ZREM', former_readers, id)
return 1
