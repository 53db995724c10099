-- Stands before every script.

-- Kind of a journal's last entry, the index of the token after it, and its payload; nil when there is no
-- journal.
local function tail(journal)
  local last = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)[1]
  if not last then return nil, 0 end
  local kind, next_index, payload
  for i = 1, #last[2], 2 do
    if last[2][i] == 'k' then kind = last[2][i + 1] end
    if last[2][i] == 'n' then next_index = tonumber(last[2][i + 1]) end
    if last[2][i] == 'd' then payload = last[2][i + 1] end
  end
  return kind, next_index, payload
end

-- Whether `consumer` holds the lease on `entry`: the fencing check. `claims`, where given, is how
-- often the entry was claimed before this lease: a lease that lapsed and was claimed anew by the same
-- consumer is another lease, as somebody else may have written in between.
local function owns(jobs, group, consumer, entry, claims)
  local range = redis.pcall('XPENDING', jobs, group, entry, entry, 1)
  if range.err then
    -- Redis lost the queue, and with it every lease.
    if string.find(range.err, 'NOGROUP', 1, true) then return false end
    error(range.err)
  end
  local pending = range[1]
  if pending == nil then return false end
  return pending[2] == consumer and (claims == nil or pending[4] == tonumber(claims) + 1)
end

local function renew(jobs, group, consumer, entry)
  redis.call('XCLAIM', jobs, group, consumer, 0, entry, 'JUSTID')
end

local function settle(jobs, group, entry)
  redis.call('XACK', jobs, group, entry)
  redis.call('XDEL', jobs, entry)
end

-- Write the terminal event; the caller has checked that there is none yet. A journal is kept from its
-- end on; those of several choices from their deadline on, so that they go together.
local function finish(journal, open, readers, id, next_index, payload, retention_ms)
  redis.call('XADD', journal, '*', 'k', 'e', 'n', next_index, 'd', payload)
  local deadline_ms = redis.call('ZSCORE', open, id)
  local has_others = string.find(id, '/', 1, true) or redis.call('EXISTS', journal .. '/1') == 1
  redis.call('ZREM', open, id)
  redis.call('ZREM', readers, id)
  if has_others and deadline_ms then
    redis.call('PEXPIREAT', journal, deadline_ms + retention_ms)
  else
    redis.call('PEXPIRE', journal, retention_ms)
  end
end

-- Wait behind a picture's encoding; the first to wait starts it.
local function park(flight, id, jobs_vision, vision_job)
  if redis.call('HSETNX', flight, '', 'queued') == 1 then
    redis.call('XADD', jobs_vision, '*', 'd', vision_job)
  end
  redis.call('HSET', flight, id, 1)
end

-- Ids that wait behind a picture and are not over.
local function parked(flight, open)
  local ids = {}
  for _, id in ipairs(redis.call('HKEYS', flight)) do
    if id ~= '' and redis.call('ZSCORE', open, id) then ids[#ids + 1] = id end
  end
  return ids
end
