-- Renew the lease on an image.
-- KEYS jobs:vision encode_waiters open_requests
-- ARGV group consumer entry delivery_count
-- Returns the number of waiting requests, -1 when the lease is lost.
local jobs, waiters, open_requests = unpack(KEYS)
local group, consumer, entry, delivery_count = unpack(ARGV)
if not owns(jobs, group, consumer, entry, delivery_count) then return -1 end
renew(jobs, group, consumer, entry)
local ids = live_waiters(waiters, open_requests)
return #ids
