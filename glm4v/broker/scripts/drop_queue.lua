-- Delete an empty queue that no worker has used for long, as after a rolling update to another model.
-- KEYS queues jobs
-- ARGV queue idle_ms
-- Returns 1 when it was deleted, otherwise 0.
local queues, jobs = unpack(KEYS)
local seen_ms = redis.call('ZSCORE', queues, ARGV[1])
if not seen_ms or now_ms() - seen_ms < tonumber(ARGV[2]) then return 0 end
local length = redis.pcall('XLEN', jobs)
if length ~= 0 or redis.call('EXISTS', jobs .. ':waiting') == 1 then return 0 end -- jobs wait, or the key is not a stream
redis.call('DEL', jobs)
redis.call('ZREM', queues, ARGV[1])
return 1
