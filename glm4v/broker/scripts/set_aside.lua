-- Take an entry that cannot be read out of a queue, and keep it for a person to look at.
-- KEYS jobs dead
-- ARGV group consumer entry claims raw reason most
-- Answers 1, or 0 when the lease is lost.
local jobs, group, entry = KEYS[1], ARGV[1], ARGV[3]
if not owns(jobs, group, ARGV[2], entry, ARGV[4]) then return 0 end
-- The queue goes on even where the stream of dead letters is no stream.
redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], '*', 's', jobs, 'e', entry, 'x', ARGV[5], 'm', ARGV[6])
settle(jobs, group, entry)
return 1
