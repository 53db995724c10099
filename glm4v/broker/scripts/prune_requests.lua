-- Delete queued requests that have ended. Workers do so when they claim them; this is for queues without workers.
-- KEYS jobs:lm open_requests
-- ARGV group after max_entries
-- Returns the id of the last entry examined, empty at the end of the stream.
local jobs, open_requests = unpack(KEYS)
local group, after, max_entries = unpack(ARGV)
local last = ''
for _, entry in ipairs(redis.call('XRANGE', jobs, '(' .. after, '+', 'COUNT', max_entries)) do
  local id = fields(entry).r
  if id and not redis.call('ZSCORE', open_requests, id) then ack_and_delete(jobs, group, entry[1]) end
  last = entry[1]
end
return last
