-- How many requests for language workers come before one that waits in the line of its client.
-- KEYS jobs:lm open_requests
-- ARGV id
-- Returns the number; -1 when the request does not wait in a line.
local MAX_CLIENTS = 1000 -- a bound for the time that this script blocks Redis
local jobs, open_requests, id = KEYS[1], KEYS[2], ARGV[1]
local _, client = queue_and_client(open_requests, id)
if not client then return -1 end
local rotation = jobs .. ':waiting'
local rank = redis.call('ZRANK', rotation .. ':' .. client, id)
if not rank then return -1 end
-- Clients take turns, one request each: others in front of this client have one turn more than those behind it.
local before, turns = unclaimed(jobs) + rank, rank + 1
for _, other in ipairs(redis.call('ZRANGE', rotation, 0, MAX_CLIENTS - 1)) do
  if other == client then
    turns = rank
  else
    before = before + math.min(redis.call('ZCARD', rotation .. ':' .. other), turns)
  end
end
return before
