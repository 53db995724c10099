-- Accept a request once, and send it where it goes first.
-- KEYS journal open readers jobs:lm jobs:vision flight
-- ARGV id accepted content_digest queued deadline_ms abandon_ms max_open route vision_job encoding
--      route: lm (no picture, or its embedding is there) | vision
local journal, open, readers, jobs_lm, jobs_vision, flight = unpack(KEYS)
local id, accepted, content, queued = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local first = redis.call('XRANGE', journal, '-', '+', 'COUNT', 1)[1]
if first then
  for i = 1, #first[2], 2 do
    if first[2][i] == 'c' and first[2][i + 1] == content then return {'attached'} end
  end
  return {'taken'}
end

local count = redis.call('ZCARD', open)
if count >= tonumber(ARGV[7]) then return {'full', count} end

redis.call('XADD', journal, '*', 'k', 'a', 'n', 0, 'c', content, 'd', accepted)
redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', queued)
redis.call('ZADD', open, ARGV[5], id)
redis.call('ZADD', readers, ARGV[6], id)
if ARGV[8] == 'lm' then
  redis.call('XADD', jobs_lm, '*', 'r', id, 'l', 0)
else
  park(flight, id, jobs_vision, ARGV[9])
  if redis.call('HGET', flight, '') == 'encoding' then
    redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', ARGV[10])
  end
end
return {'accepted'}
