-- Put an image back at the end of the queue, for any worker.
-- KEYS jobs:vision
-- ARGV group consumer entry claims vision_job
if not owns(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'd', ARGV[5], 'v', FORMAT)
settle(KEYS[1], ARGV[1], ARGV[3])
return 1
