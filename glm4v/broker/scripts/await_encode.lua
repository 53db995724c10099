-- Let a claimed request wait for its image to be encoded again: the embedding is gone or corrupt.
-- KEYS jobs:lm jobs:vision encode_waiters
-- ARGV group consumer id entry delivery_count vision_job
-- Returns ok | lost (the lease)
local jobs_lm, jobs_vision, waiters = unpack(KEYS)
local group, consumer, id, entry, delivery_count, vision_job = unpack(ARGV)
if not owns(jobs_lm, group, consumer, entry, delivery_count) then return 'lost' end
add_waiter(waiters, id, jobs_vision, vision_job)
ack_and_delete(jobs_lm, group, entry)
return 'ok'
