-- The gate: append one step's tokens for many requests, each refused on its own.
-- KEYS jobs:lm open readers journal...
-- ARGV group consumer retention_ms, then for each journal: id entry claims first next tokens end
--      tokens, end: payloads, empty for none
-- Answers for each journal: ok | closed | lost (another owner) | gap:<next index in the journal>
local jobs, open, readers = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, retention_ms = ARGV[1], ARGV[2], ARGV[3]
local answers = {}
for i = 4, #KEYS do
  local at = 4 + (i - 4) * 7
  local id, entry, claims = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local first, after = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local tokens, ending = ARGV[at + 5], ARGV[at + 6]
  local kind, next_index = tail(KEYS[i])
  local answer = 'ok'
  if not owns(jobs, group, consumer, entry, claims) then
    answer = 'lost'
  elseif kind == nil or kind == 'e' then
    settle(jobs, group, entry)
    answer = 'closed'
  elseif next_index ~= first then
    answer = 'gap:' .. next_index
  else
    if tokens ~= '' then redis.call('XADD', KEYS[i], '*', 'k', 't', 'n', after, 'd', tokens) end
    if ending ~= '' then
      finish(KEYS[i], open, readers, id, after, ending, retention_ms)
      settle(jobs, group, entry)
    else
      renew(jobs, group, consumer, entry)
    end
  end
  answers[#answers + 1] = answer
end
return answers
