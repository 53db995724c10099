-- Stands before every script.

-- Key of the namespace that `open` is of.
local function sibling(open, name)
  return string.sub(open, 1, -#'open' - 1) .. name
end

local function fields(entry)
  local found = {}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end

-- Kind of a journal's last entry, the index of the token after it, and its payload; nil when there is no
-- journal. Entries that are none of ours are passed over, and a key that is no stream is no journal.
local KINDS = {a = true, s = true, t = true, e = true}
local function tail(journal)
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

-- Whether `consumer` holds the lease on `entry`: the fencing check. `claims` is how often the entry was
-- claimed before this lease: a lease that lapsed and was claimed anew by the same consumer is another
-- lease, as somebody else may have written in between.
local function owns(jobs, group, consumer, entry, claims)
  local range = redis.pcall('XPENDING', jobs, group, entry, entry, 1)
  if range.err then
    -- Redis lost the queue, and with it every lease.
    if string.find(range.err, 'NOGROUP', 1, true) then return false end
    error(range.err)
  end
  local pending = range[1]
  if pending == nil then return false end
  return pending[2] == consumer and pending[4] == tonumber(claims) + 1
end

local function renew(jobs, group, consumer, entry)
  redis.call('XCLAIM', jobs, group, consumer, 0, entry, 'JUSTID')
end

local function settle(jobs, group, entry)
  redis.call('XACK', jobs, group, entry)
  redis.call('XDEL', jobs, entry)
end

-- An image is pinned while a request that is about it is open: it has no time to live, so that no
-- eviction takes it, and its bytes are counted. `pins` says for each open request which image it holds;
-- `pinned` for each image how many hold it and, behind 'bytes:', its size; 'bytes' is the sum.
local function unpin(open, id)
  local pins, pinned = sibling(open, 'pins'), sibling(open, 'pinned')
  local digest = redis.call('HGET', pins, id)
  if not digest then return end
  redis.call('HDEL', pins, id)
  if redis.call('HINCRBY', pinned, digest, -1) > 0 then return end
  local size = tonumber(redis.call('HGET', pinned, 'bytes:' .. digest) or 0)
  redis.call('HDEL', pinned, digest, 'bytes:' .. digest)
  if redis.call('HINCRBY', pinned, 'bytes', -size) == 0 then redis.call('HDEL', pinned, 'bytes') end
  redis.call('EXPIRE', sibling(open, 'image:' .. digest), IMAGE_TTL_S)
end

local function pin(open, id, digest)
  local pinned, image = sibling(open, 'pinned'), sibling(open, 'image:' .. digest)
  unpin(open, id)
  redis.call('HSET', sibling(open, 'pins'), id, digest)
  redis.call('PERSIST', image)
  if redis.call('HINCRBY', pinned, digest, 1) > 1 then return end
  local size = redis.call('STRLEN', image)
  redis.call('HSET', pinned, 'bytes:' .. digest, size)
  redis.call('HINCRBY', pinned, 'bytes', size)
end

-- Where an image of so many bytes has no room among the pinned ones: bytes that are pinned, and the most
-- there may be, by default half of the memory that Redis may take.
local function image_room(open, digest, size, limit)
  if digest == '' or redis.call('HEXISTS', sibling(open, 'pinned'), digest) == 1 then return nil end
  if limit == 0 then
    local info = redis.pcall('INFO', 'memory') -- an account may not be allowed to ask
    local most = type(info) == 'string' and string.match(info, 'maxmemory:(%d+)')
    limit = math.floor(tonumber(most or 0) / 2)
  end
  local held = tonumber(redis.call('HGET', sibling(open, 'pinned'), 'bytes') or 0)
  if limit > 0 and held + size > limit then return held, limit end
  return nil
end

-- Write the terminal event; the caller has checked that there is none yet. A journal is kept from its
-- end on; those of several choices from their deadline on, so that they go together.
local function finish(journal, open, readers, id, next_index, payload, retention_ms)
  redis.call('XADD', journal, '*', 'k', 'e', 'n', next_index, 'd', payload)
  local deadline_ms = redis.call('ZSCORE', open, id)
  local has_others = string.find(id, '/', 1, true) or redis.call('EXISTS', journal .. '/1') == 1
  redis.call('ZREM', open, id)
  redis.call('ZREM', readers, id)
  unpin(open, id)
  if has_others and deadline_ms then
    redis.call('PEXPIREAT', journal, deadline_ms + retention_ms)
  else
    redis.call('PEXPIRE', journal, retention_ms)
  end
end

-- Wait behind an image's encoding; the first to wait starts it.
local function park(flight, id, jobs_vision, vision_job)
  local first = redis.pcall('HSETNX', flight, '', 'queued')
  if type(first) == 'table' then -- what was written there is none of ours
    redis.call('DEL', flight)
    first = redis.call('HSETNX', flight, '', 'queued')
  end
  if first == 1 then redis.call('XADD', jobs_vision, '*', 'd', vision_job, 'v', FORMAT) end
  redis.call('HSET', flight, id, 1)
end

-- Ids that wait behind an image and are not over, with the index of their next token.
local function parked(flight, open)
  local ids, next_indices = {}, {}
  local waiting = redis.pcall('HKEYS', flight)
  for _, id in ipairs(waiting.err and {} or waiting) do
    if id ~= '' and redis.call('ZSCORE', open, id) then
      local kind, next_index = tail(sibling(open, 'journal:' .. id))
      if kind ~= nil then
        ids[#ids + 1] = id
        next_indices[#next_indices + 1] = next_index
      end
    end
  end
  return ids, next_indices
end
