-- Renew, for their owners, the leases that were renewed later than now: the clock was set back since, so they would
-- not lapse until it reaches that time again. Redis reports an idle time of 0 for them.
-- KEYS jobs
-- ARGV group
local jobs, group, PAGE = KEYS[1], ARGV[1], 100
local from, page = '-'
repeat
  page = redis.call('XPENDING', jobs, group, from, '+', PAGE)
  for _, lease in ipairs(page) do
    local entry, owner, idle_ms = lease[1], lease[2], lease[3]
    if idle_ms == 0 then renew(jobs, group, owner, entry) end
    from = '(' .. entry
  end
until #page < PAGE
