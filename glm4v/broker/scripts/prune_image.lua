-- Delete a queued image for which no request waits. Vision workers do so when they claim it; this is for queues
-- without workers.
-- KEYS jobs:vision encode_waiters open_requests
-- ARGV group entry
-- Returns 1 when it was deleted, otherwise 0.
local jobs, waiters, open_requests = unpack(KEYS)
local ids = live_waiters(waiters, open_requests)
if #ids > 0 then return 0 end
redis.call('DEL', waiters)
ack_and_delete(jobs, ARGV[1], ARGV[2])
return 1
