-- How many requests for language workers come before one that waits, in the stream or in the line of its client.
-- KEYS jobs:lm open_requests
-- ARGV id
-- Returns the number; -1 when the request does not wait there.
local MAX_CLIENTS, MAX_JOBS = 1000, 1000 -- bounds for the time that this script blocks Redis
local jobs, open_requests, id = KEYS[1], KEYS[2], ARGV[1]

local function place_in_stream()
  if redis.call('XLEN', jobs) == 0 then return -1 end
  local start = delivered(jobs, LM_GROUP)
  for place, entry in ipairs(redis.call('XRANGE', jobs, start, '+', 'COUNT', MAX_JOBS)) do
    if fields(entry).r == id then return place - 1 end
  end
  return -1
end

local _, client = queue_and_client(open_requests, id)
local rotation = jobs .. ':waiting'
local rank = client and redis.call('ZRANK', rotation .. ':' .. client, id)
if not rank then return place_in_stream() end
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
