-- Put a claimed image back at the end of the queue.
-- KEYS jobs:vision
-- ARGV group consumer entry delivery_count vision_job
-- Returns 1, or 0 when the lease is lost.
local jobs = KEYS[1]
local group, consumer, entry, delivery_count, vision_job = unpack(ARGV)
if not owns(jobs, group, consumer, entry, delivery_count) then return 0 end
redis.call('XADD', jobs, '*', 'd', vision_job, 'v', FORMAT)
ack_and_delete(jobs, group, entry)
return 1
