-- Renew the lease on a picture and count who still waits for it.
-- KEYS jobs:vision flight open
-- ARGV group consumer entry
-- Answers the number of requests that wait, -1 when the lease is lost.
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return -1 end
renew(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
return #parked(KEYS[2], KEYS[3])
