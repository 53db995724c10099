-- How many requests are where, for one model.
-- KEYS open_requests jobs:lm jobs:vision
-- ARGV lm_group vision_group
-- Returns open requests, clients that wait in lines, then for the language and the vision queue: jobs in the
-- stream, jobs that no worker has claimed, and the age in milliseconds of the oldest of those.
local MAX_CLIENTS = 1000 -- a bound for the time that this script blocks Redis
local open_requests, jobs_lm, jobs_vision = unpack(KEYS)

local function unclaimed_jobs(jobs, group)
  local length = redis.call('XLEN', jobs)
  if length == 0 then return 0, 0, 0 end
  local start, pending = delivered(jobs, group)
  local first = redis.call('XRANGE', jobs, start, '+', 'COUNT', 1)[1]
  if not first then return length, 0, 0 end
  return length, math.max(length - pending, 1), now_ms() - string.match(first[1], '^%d+')
end

local length_lm, waiting_lm, age_lm = unclaimed_jobs(jobs_lm, ARGV[1])
local rotation = jobs_lm .. ':waiting'
for _, client in ipairs(redis.call('ZRANGE', rotation, 0, MAX_CLIENTS - 1)) do
  local line = rotation .. ':' .. client
  waiting_lm = waiting_lm + redis.call('ZCARD', line)
  -- Requests that were put back stand in front, at 0, and tell no time.
  local first = redis.call('ZRANGEBYSCORE', line, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then age_lm = math.max(age_lm, now_ms() - math.floor(first[2] / 1000)) end
end
return {
  redis.call('ZCARD', open_requests), redis.call('ZCARD', rotation),
  length_lm, waiting_lm, math.max(age_lm, 0),
  unclaimed_jobs(jobs_vision, ARGV[2])
}
