-- Accept a request once, all its choices or none, and send them where they go first.
-- KEYS open readers jobs:lm jobs:vision flight journal...
-- ARGV content_digest former_digest queued timeout_ms unread_ms max_open route vision_job encoding,
--      then for each journal: id accepted
--      former_digest: the same in the form of an older release, empty for none
--      timeout_ms: from now to its deadline
--      unread_ms: how long it may stand without a reader
--      route: lm (no picture, or its embedding is there) | vision
local open, readers, jobs_lm, jobs_vision, flight = unpack(KEYS)
local content, former, queued, timeout_ms, unread_ms, max_open, route = unpack(ARGV)
local vision_job, encoding = ARGV[8], ARGV[9]

local first = redis.call('XRANGE', KEYS[6], '-', '+', 'COUNT', 1)[1]
if first then
  for i = 1, #first[2], 2 do
    local digest = first[2][i] == 'c' and first[2][i + 1]
    if digest == content or digest == former and former ~= '' then return {'attached'} end
  end
  return {'taken'}
end
-- What a Redis that lost the first journal still has of the others.
for i = 7, #KEYS do
  local kind = tail(KEYS[i])
  if kind ~= nil and kind ~= 'e' then return {'taken'} end
end

local count = redis.call('ZCARD', open)
if count + #KEYS - 5 > tonumber(max_open) then return {'full', count} end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 6, #KEYS do
  local journal, id, accepted = KEYS[i], ARGV[2 * i - 2], ARGV[2 * i - 1]
  -- Only then: when memory is full a script is refused at its first write, unless that frees some.
  if tail(journal) then redis.call('DEL', journal) end
  -- Both digests, as gateways of two releases may be asked again.
  redis.call('XADD', journal, '*', 'k', 'a', 'n', 0, 'c', content, 'c', former, 'd', accepted)
  redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', queued)
  redis.call('ZADD', open, now_ms + timeout_ms, id)
  redis.call('ZADD', readers, now_ms + unread_ms, id)
  if route == 'lm' then
    redis.call('XADD', jobs_lm, '*', 'r', id, 'l', 0)
  else
    park(flight, id, jobs_vision, vision_job)
    if redis.call('HGET', flight, '') == 'encoding' then
      redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', encoding)
    end
  end
end
return {'accepted'}
