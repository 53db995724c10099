-- Claim requests: those in the stream, then those in the lines of clients, in rotation or one of each named client.
-- Without any, the worker waits for the stream. There is a gap: a worker that starts to wait just before another one
-- takes its last request and leaves some in a line waits for a second, or until the next request arrives.
-- KEYS jobs:lm open_requests
-- ARGV group consumer capacity, then one client for each request, or none
-- Returns what XREADGROUP does, nil when there are none.
local jobs, open_requests, capacity = KEYS[1], KEYS[2], tonumber(ARGV[3])
local now = now_us()
for i = 1, capacity - unclaimed(jobs) do
  local client = ARGV[3 + i]
  local id
  if client then
    id = next_of_client(jobs, open_requests, client, now + i)
  else
    id = next_in_rotation(jobs, open_requests, now + i)
  end
  if id then add_job(jobs, id, 0) end
end
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', capacity, 'STREAMS', jobs, '>')
