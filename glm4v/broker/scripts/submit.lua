-- Accept a request once, with all its choices or not at all, and queue it.
-- KEYS open_requests reader_deadlines queues jobs:lm jobs:vision encode_waiters image image_owner journal...
-- ARGV content_digest former_digest queued timeout_ms unread_ms max_open max_image_bytes image_digest route
--      vision_job encoding fingerprint client max_of_client has_bytes, then for each journal: id accepted
--      former_digest: the digest in the form of an older release, empty for none
--      timeout_ms: from now to the deadline
--      unread_ms: from now to the time at which the request is abandoned without a reader
--      max_image_bytes: limit for all pinned images, 0 for half of maxmemory
--      image_digest: empty without an image
--      route: lm (no image, or its embedding is stored) | vision
--      has_bytes: 1 if the caller has sent the image itself; otherwise it needs to have sent it before
--      client: shares the limits and the queue with other clients; empty: no limit of its own
-- Returns attached | taken | full count | client full count | images pinned_bytes limit | no image | accepted
local open_requests, reader_deadlines, queues, jobs_lm, jobs_vision, waiters, image, image_owner = unpack(KEYS)
local content, former, queued, timeout_ms, unread_ms, max_open, max_image_bytes = unpack(ARGV)
local digest, route, vision_job, encoding, fingerprint = ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local client, max_of_client = ARGV[13], tonumber(ARGV[14])
local has_bytes = ARGV[15] == '1'
local JOURNAL, CHOICE = 9, 16 -- positions of the first journal in KEYS and of its arguments in ARGV

local entries = redis.pcall('XRANGE', KEYS[JOURNAL], '-', '+', 'COUNT', 1)
if entries.err then return {'taken'} end -- the key is not a stream
if entries[1] then
  local first = entries[1][2]
  for i = 1, #first, 2 do
    local known = first[i] == 'c' and first[i + 1]
    if known == content or known == former and former ~= '' then return {'attached'} end
  end
  return {'taken'}
end
-- Redis may have lost the first journal and still have those of other choices.
for i = JOURNAL + 1, #KEYS do
  local kind = last_entry(KEYS[i])
  if kind ~= nil and kind ~= 'e' then return {'taken'} end
end

local count = redis.call('ZCARD', open_requests)
if count + #KEYS - JOURNAL + 1 > tonumber(max_open) then return {'full', count} end
local of_client = client_over_limit(open_requests, client, #KEYS - JOURNAL + 1, max_of_client)
if of_client then return {'client full', of_client} end
if digest ~= '' then
  if redis.call('EXISTS', image) == 0 then return {'no image'} end
  if not has_bytes and redis.call('EXISTS', image_owner) == 0 then return {'no image'} end -- it is somebody else's
  local size = redis.call('STRLEN', image)
  local pinned_bytes, limit = image_over_limit(open_requests, digest, size, tonumber(max_image_bytes))
  if pinned_bytes then return {'images', pinned_bytes, limit} end
end

local now = now_ms()
for i = JOURNAL, #KEYS do
  local at = CHOICE + 2 * (i - JOURNAL)
  local journal, id, accepted = KEYS[i], ARGV[at], ARGV[at + 1]
  -- Not earlier: when memory is full Redis refuses a script at its first write, unless that write is a DEL.
  if redis.call('EXISTS', journal) == 1 then redis.call('DEL', journal) end
  -- Both digests, so that a retry through a gateway of another release finds its request.
  redis.call('XADD', journal, '*', 'k', 'a', 'n', 0, 'c', content, 'c', former, 'd', accepted, 'v', FORMAT)
  redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', queued)
  release(open_requests, id) -- left over from a journal that Redis has lost
  redis.call('ZADD', open_requests, now + timeout_ms, id)
  redis.call('ZADD', reader_deadlines, now + unread_ms, id)
  count_open(open_requests, id, client, jobs_lm)
  if digest ~= '' then pin(open_requests, id, digest) end
  register_queue(queues, 'lm:' .. fingerprint)
  if route == 'lm' then
    enqueue(jobs_lm, open_requests, id, now_us())
  else
    register_queue(queues, 'vision:' .. fingerprint)
    add_waiter(waiters, id, jobs_vision, vision_job)
    if redis.call('HGET', waiters, '') == 'encoding' then
      redis.call('XADD', journal, '*', 'k', 's', 'n', 0, 'd', encoding)
    end
  end
end
if digest ~= '' then redis.call('SET', image_owner, '', 'EX', IMAGE_OWNER_TTL_S) end
return {'accepted'}
