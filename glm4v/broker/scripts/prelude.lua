-- Prepended to every script.

-- A key of the same namespace as `open_requests`. Which requests wait for an image, and which image a request
-- pins, is known only inside a script, so these keys cannot be passed in KEYS. They share the hash tag of the
-- namespace, which keeps them on the same node of a cluster.
local function sibling(open_requests, name)
  return string.sub(open_requests, 1, -#'open_requests' - 1) .. name
end

local function fields(entry)
  local found = {}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- List a queue in `queues`. It counts as unserved until one of its workers reports.
local function register_queue(queues, queue)
  redis.call('ZADD', queues, 'NX', now_ms() - UNSERVED_AFTER_MS, queue)
end

-- The last entry of a journal: its kind, the index of the token after it, and its payload. nil without a
-- journal. Foreign entries are skipped, and a key that is not a stream counts as no journal.
local KINDS = {a = true, s = true, t = true, e = true}
local function last_entry(journal)
  local last, batch = '+', 1
  while true do
    local entries = redis.pcall('XREVRANGE', journal, last, '-', 'COUNT', batch)
    if entries.err or #entries == 0 then return nil, 0 end
    for _, entry in ipairs(entries) do
      local found = fields(entry)
      if KINDS[found.k] and found.d and string.match(found.n or '', '^%d+$') then
        return found.k, tonumber(found.n), found.d
      end
      last = '(' .. entry[1]
    end
    batch = 64
  end
end

-- The fencing check: whether `consumer` holds the lease on `entry`. `delivery_count` counts how often the
-- entry was delivered, up to and with this lease. A lease that lapsed and was claimed again by the same
-- consumer is another lease, because another worker may have written in between.
local function owns(jobs, group, consumer, entry, delivery_count)
  local range = redis.pcall('XPENDING', jobs, group, entry, entry, 1)
  if range.err then
    -- Redis lost the queue, and with it every lease.
    if string.find(range.err, 'NOGROUP', 1, true) then return false end
    error(range.err)
  end
  local pending = range[1]
  if pending == nil then return false end
  return pending[2] == consumer and pending[4] == tonumber(delivery_count)
end

local function renew(jobs, group, consumer, entry)
  redis.call('XCLAIM', jobs, group, consumer, 0, entry, 'JUSTID')
end

local function ack_and_delete(jobs, group, entry)
  redis.call('XACK', jobs, group, entry)
  redis.call('XDEL', jobs, entry)
end

-- An open request pins its image: a pinned image has no time to live, so Redis does not evict it, and its
-- bytes are counted. `pins` maps each open request to its image. `pinned` holds for each image the number of
-- requests that pin it, under 'bytes:<digest>' its size, and under 'bytes' the sum of all sizes.
local function unpin(open_requests, id)
  local pins, pinned = sibling(open_requests, 'pins'), sibling(open_requests, 'pinned')
  local digest = redis.call('HGET', pins, id)
  if not digest then return end
  redis.call('HDEL', pins, id)
  if redis.call('HINCRBY', pinned, digest, -1) > 0 then return end
  local size = tonumber(redis.call('HGET', pinned, 'bytes:' .. digest) or 0)
  redis.call('HDEL', pinned, digest, 'bytes:' .. digest)
  if redis.call('HINCRBY', pinned, 'bytes', -size) == 0 then redis.call('HDEL', pinned, 'bytes') end
  redis.call('EXPIRE', sibling(open_requests, 'image:' .. digest), IMAGE_TTL_S)
end

local function pin(open_requests, id, digest)
  local pinned, image = sibling(open_requests, 'pinned'), sibling(open_requests, 'image:' .. digest)
  unpin(open_requests, id)
  redis.call('HSET', sibling(open_requests, 'pins'), id, digest)
  redis.call('PERSIST', image)
  if redis.call('HINCRBY', pinned, digest, 1) > 1 then return end
  local size = redis.call('STRLEN', image)
  redis.call('HSET', pinned, 'bytes:' .. digest, size)
  redis.call('HINCRBY', pinned, 'bytes', size)
end

-- Checks whether an image of `size` bytes may be pinned. Returns nil if it may, otherwise the pinned bytes and
-- the limit; limit 0 stands for half of maxmemory.
local function image_over_limit(open_requests, digest, size, limit)
  if digest == '' or redis.call('HEXISTS', sibling(open_requests, 'pinned'), digest) == 1 then return nil end
  if limit == 0 then
    local info = redis.pcall('INFO', 'memory') -- the account may lack the permission
    local maxmemory = type(info) == 'string' and string.match(info, 'maxmemory:(%d+)')
    limit = math.floor(tonumber(maxmemory or 0) / 2)
  end
  local pinned_bytes = tonumber(redis.call('HGET', sibling(open_requests, 'pinned'), 'bytes') or 0)
  if limit > 0 and pinned_bytes + size > limit then return pinned_bytes, limit end
  return nil
end

-- Each client may have a part of the open requests: `clients` counts them by client, `client_of` maps each to
-- `<jobs> <client>`, where `jobs` is the key of its queue. Requests for which the workers of a queue have no capacity
-- wait in a line of their client (`<jobs>:waiting:<client>`), and the clients in a rotation (`<jobs>:waiting`), so
-- that a client with a thousand requests does not delay one with a single request.

local function count_open(open_requests, id, client, jobs)
  redis.call('HSET', sibling(open_requests, 'client_of'), id, jobs .. ' ' .. client)
  redis.call('HINCRBY', sibling(open_requests, 'clients'), client, 1)
end

-- The queue and the client of an open request; nil when they are not known.
local function queue_and_client(open_requests, id)
  local found = redis.call('HGET', sibling(open_requests, 'client_of'), id)
  if not found then return nil end
  return string.match(found, '^(%S*) (.*)$')
end

local function leave_line(jobs, client, id)
  local line = jobs .. ':waiting:' .. client
  if redis.call('ZREM', line, id) == 1 and redis.call('EXISTS', line) == 0 then
    redis.call('ZREM', jobs .. ':waiting', client)
  end
end

-- Release what an open request holds apart from its journal.
local function release(open_requests, id)
  unpin(open_requests, id)
  local jobs, client = queue_and_client(open_requests, id)
  if not jobs then return end
  redis.call('HDEL', sibling(open_requests, 'client_of'), id)
  leave_line(jobs, client, id)
  if redis.call('HINCRBY', sibling(open_requests, 'clients'), client, -1) <= 0 then
    redis.call('HDEL', sibling(open_requests, 'clients'), client)
  end
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- What follows the last entry of a queue that was given to a worker, as a bound of XRANGE, and how many entries are
-- claimed. The queue must exist; without a consumer group nothing was given.
local function delivered(jobs, group)
  for _, found in ipairs(redis.call('XINFO', 'GROUPS', jobs)) do
    local info = {}
    for i = 1, #found, 2 do info[found[i]] = found[i + 1] end
    if info.name == group then return '(' .. info['last-delivered-id'], info.pending end
  end
  return '-', 0
end

-- Entries of a language queue that no worker has claimed.
local function unclaimed(jobs)
  local pending = redis.pcall('XPENDING', jobs, LM_GROUP)
  return redis.call('XLEN', jobs) - (pending.err and 0 or pending[1])
end

local function add_job(jobs, id, prior_attempts)
  redis.call('XADD', jobs, '*', 'r', id, 'l', prior_attempts, 'v', FORMAT)
end

-- Queue a request. While no request waits in a line it goes into the stream at once, because a worker may be idle.
-- `position` is its place in the line of its client.
local function enqueue(jobs, open_requests, id, position)
  local rotation = jobs .. ':waiting'
  if redis.call('EXISTS', rotation) == 0 and unclaimed(jobs) <= 0 then return add_job(jobs, id, 0) end
  local _, client = queue_and_client(open_requests, id)
  if not client then return add_job(jobs, id, 0) end -- of another release
  redis.call('ZADD', rotation .. ':' .. client, position, id)
  redis.call('ZADD', rotation, 'NX', now_us(), client)
end

-- The next request of a client, whose turn after this one comes at `turn`; nil when there is none.
local function next_of_client(jobs, open_requests, client, turn)
  local rotation = jobs .. ':waiting'
  local line = rotation .. ':' .. client
  local id
  repeat id = redis.call('ZPOPMIN', line)[1] until not id or redis.call('ZSCORE', open_requests, id)
  if redis.call('EXISTS', line) == 1 then
    redis.call('ZADD', rotation, turn, client)
  else
    redis.call('ZREM', rotation, client)
  end
  return id
end

-- The next request of the client whose turn it is; nil when there is none.
local function next_in_rotation(jobs, open_requests, turn)
  while true do
    local client = redis.call('ZRANGE', jobs .. ':waiting', 0, 0)[1]
    local id = client and next_of_client(jobs, open_requests, client, turn)
    if id or not client then return id end
  end
end

-- Checks whether a client may open `num_choices` more requests. Returns nil if it may, otherwise the number it has.
local function client_over_limit(open_requests, client, num_choices, limit)
  local count = tonumber(redis.call('HGET', sibling(open_requests, 'clients'), client) or 0)
  if client ~= '' and count + num_choices > limit then return count end
  return nil
end

-- Write the terminal event; the caller has checked that the journal has none. The journal expires after
-- result_ttl_ms. The journals of a request for several answers expire together, counted from its deadline.
local function write_end(journal, open_requests, reader_deadlines, id, next_index, payload, result_ttl_ms)
  redis.call('XADD', journal, '*', 'k', 'e', 'n', next_index, 'd', payload)
  -- For the log, metrics and traces. A foreign value under the key must not keep a request from ending.
  redis.pcall('XADD', sibling(open_requests, 'ended'), 'MAXLEN', '~', MAX_ENDED, '*', 'r', id)
  local deadline_ms = redis.call('ZSCORE', open_requests, id)
  local has_others = string.find(id, '/', 1, true) or redis.call('EXISTS', journal .. '/1') == 1
  redis.call('ZREM', open_requests, id)
  redis.call('ZREM', reader_deadlines, id)
  release(open_requests, id)
  if has_others and deadline_ms then
    redis.call('PEXPIREAT', journal, deadline_ms + result_ttl_ms)
  else
    redis.call('PEXPIRE', journal, result_ttl_ms)
  end
end

-- Let a request wait until its image is encoded. The first waiter queues the image.
local function add_waiter(waiters, id, jobs_vision, vision_job)
  local first = redis.pcall('HSETNX', waiters, '', 'queued')
  if type(first) == 'table' then -- a foreign value of another type
    redis.call('DEL', waiters)
    first = redis.call('HSETNX', waiters, '', 'queued')
  end
  if first == 1 then redis.call('XADD', jobs_vision, '*', 'd', vision_job, 'v', FORMAT) end
  redis.call('HSET', waiters, id, 1)
end

-- Ids of the open requests that wait for an image, and the index of the next token of each.
local function live_waiters(waiters, open_requests)
  local ids, next_indices = {}, {}
  local waiting = redis.pcall('HKEYS', waiters)
  for _, id in ipairs(waiting.err and {} or waiting) do
    if id ~= '' and redis.call('ZSCORE', open_requests, id) then
      local kind, next_index = last_entry(sibling(open_requests, 'journal:' .. id))
      if kind ~= nil then
        ids[#ids + 1] = id
        next_indices[#next_indices + 1] = next_index
      end
    end
  end
  return ids, next_indices
end
