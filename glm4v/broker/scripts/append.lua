-- Append new tokens to the journals of many requests. Each request is checked by itself.
-- KEYS jobs:lm open_requests reader_deadlines journal...
-- ARGV group consumer result_ttl_ms, then for each journal: id entry delivery_count first next tokens end
--      first, next: index of the first token, and of the token after the last
--      tokens, end: payloads, empty for none
-- Returns for each journal: ok | closed | lost (the lease) | index_mismatch:<next index in the journal>
local jobs, open_requests, reader_deadlines = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, result_ttl_ms = ARGV[1], ARGV[2], ARGV[3]
local answers = {}
for i = 4, #KEYS do
  local at = 4 + (i - 4) * 7
  local id, entry, delivery_count = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local first, after = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local tokens, ending = ARGV[at + 5], ARGV[at + 6]
  local kind, next_index = last_entry(KEYS[i])
  local answer = 'ok'
  if not owns(jobs, group, consumer, entry, delivery_count) then
    answer = 'lost'
  elseif kind == nil or kind == 'e' then
    ack_and_delete(jobs, group, entry)
    answer = 'closed'
  elseif next_index ~= first then
    answer = 'index_mismatch:' .. next_index
  else
    if tokens ~= '' then redis.call('XADD', KEYS[i], '*', 'k', 't', 'n', after, 'd', tokens) end
    if ending ~= '' then
      write_end(KEYS[i], open_requests, reader_deadlines, id, after, ending, result_ttl_ms)
      ack_and_delete(jobs, group, entry)
    else
      renew(jobs, group, consumer, entry)
    end
  end
  answers[#answers + 1] = answer
end
return answers
