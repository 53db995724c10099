-- Renew the lease on an image and count who still waits for it.
-- KEYS jobs:vision flight open
-- ARGV group consumer entry claims
-- Answers the number of requests that wait, -1 when the lease is lost.
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return -1 end
renew(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
local ids = parked(KEYS[2], KEYS[3])
return #ids
