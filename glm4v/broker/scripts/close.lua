-- End a request that is still open: cancelled, expired, abandoned, or a stop string was found.
-- KEYS journal open_requests reader_deadlines
-- ARGV id end result_ttl_ms
-- Returns closed | ended (before) | unknown
local journal, open_requests, reader_deadlines = unpack(KEYS)
local id, ending, result_ttl_ms = unpack(ARGV)
local kind, next_index = last_entry(journal)
if kind == nil then
  redis.call('ZREM', open_requests, id)
  redis.call('ZREM', reader_deadlines, id)
  release(open_requests, id)
  return 'unknown'
end
if kind == 'e' then return 'ended' end
write_end(journal, open_requests, reader_deadlines, id, next_index, ending, result_ttl_ms)
return 'closed'
