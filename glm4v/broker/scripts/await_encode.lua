-- Send a request back to the vision stage: its embedding is gone, or does not match its checksum.
-- KEYS jobs:lm jobs:vision flight
-- ARGV group consumer id entry claims vision_job
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[4], ARGV[5]) then return 'lost' end
park(KEYS[3], ARGV[3], KEYS[2], ARGV[6])
settle(KEYS[1], ARGV[1], ARGV[4])
return 'ok'
