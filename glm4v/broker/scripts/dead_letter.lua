-- Move an unreadable entry from a queue into the dead letters.
-- KEYS jobs dead_letters
-- ARGV group consumer entry delivery_count raw reason max_letters
-- Returns 1, or 0 when the lease is lost.
local jobs, dead_letters = unpack(KEYS)
local group, consumer, entry, delivery_count, raw, reason, max_letters = unpack(ARGV)
if not owns(jobs, group, consumer, entry, delivery_count) then return 0 end
-- pcall: the queue continues even if `dead_letters` is not a stream.
redis.pcall('XADD', dead_letters, 'MAXLEN', '~', max_letters, '*', 's', jobs, 'e', entry, 'x', raw, 'm', reason)
ack_and_delete(jobs, group, entry)
return 1
