-- Put a picture back at the end of the queue, for any worker.
-- KEYS jobs:vision
-- ARGV group consumer entry vision_job
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'd', ARGV[4])
settle(KEYS[1], ARGV[1], ARGV[3])
return 1
