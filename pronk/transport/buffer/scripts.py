"""What the buffer does atomically, in Lua.

Redis lets a script that has begun to write go on when memory runs out; each script therefore
begins with the write that may be refused, or that needs no memory.
"""

import hashlib

ADDED, FULL, SEEN = 1, 0, -1
"""What `ADD` answers."""

# Every actor may write these values: what is no number of up to 15 digits counts as not there.
_NUMBER = """
local function number(text)
  return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text)
end
"""

ADD = (
    _NUMBER
    + """
-- KEYS: stream, sizes, seen; ARGV: sequence, max_entries, max_bytes, seconds seen lives, payload
local seen = number(redis.call('GET', KEYS[3]))
if seen and seen >= tonumber(ARGV[1]) then return -1 end
local length = redis.call('XLEN', KEYS[1])
if length >= tonumber(ARGV[2]) then return 0 end
local size = #ARGV[5]
local total = number(redis.call('HGET', KEYS[2], 'total')) or 0
if length > 0 and total + size > tonumber(ARGV[3]) then return 0 end
local id = redis.call('XADD', KEYS[1], '*', 'u', ARGV[5])
redis.call('HSET', KEYS[2], id, size, 'total', string.format('%.0f', total + size))
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[4])
return 1
"""
)
"""Room is looked at again, since others add too; a sequence seen before adds nothing."""

ADD_NAME = hashlib.sha1(ADD.encode(), usedforsecurity=False).hexdigest()
"""By which it is called on a server that a learner has given it to."""

ACKNOWLEDGE = (
    _NUMBER
    + """
-- KEYS: stream, sizes; ARGV: group, consumer, ids
local deleted = 0
for i = 3, #ARGV do
  -- Without stream or group the answer is an error, and nothing is held.
  local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #held == 1 then redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) end
  if #held == 1 and redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    deleted = deleted + 1
    -- A total that is no number is nothing to take from.
    redis.pcall('HINCRBY', KEYS[2], 'total', -(number(redis.call('HGET', KEYS[2], ARGV[i])) or 0))
    redis.call('HDEL', KEYS[2], ARGV[i])
  end
end
-- Whatever hands other than ours did to the stream, an empty buffer has no bytes.
if deleted > 0 and redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
return deleted
"""
)
"""Only who holds an entry deletes it: a learner that was thought dead and wakes finds that its
entries are its successor's. Whoever deletes an entry takes its bytes off, once."""

REREAD = """
-- KEYS: stream; ARGV: group, consumer, ids
local held = {}
for i = 3, #ARGV do
  local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #entry == 1 then held[#held + 1] = ARGV[i] end
end
if #held == 0 then return held end
return redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(held))
"""
"""Delivers once more what the consumer still holds; nobody takes back what another claimed."""

CLAIM = """
-- KEYS: stream; ARGV: group, claimant, names of the dead
local claimed = 0
for i = 3, #ARGV do
  while true do
    local page = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 100, ARGV[i])
    if #page == 0 then break end
    local ids = {}
    for _, entry in ipairs(page) do ids[#ids + 1] = entry[1] end
    ids[#ids + 1] = 'JUSTID'
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))
    claimed = claimed + #page
  end
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[i])
end
return claimed
"""
"""Entries change hands without being delivered; a consumer without entries is forgotten."""

MEND = (
    _NUMBER
    + """
-- KEYS: stream, sizes; ARGV: group
local told = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #told, 2 do
  if told[i] == 'last-generated-id' and told[i + 1] == '18446744073709551615-18446744073709551615'
  then
    redis.call('DEL', KEYS[1])
    redis.call('DEL', KEYS[2])
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
    return 1
  end
end
local used = redis.call('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 0)
if (number(redis.call('HGET', KEYS[2], 'total')) or 0) > used then
  redis.call('HINCRBY', KEYS[2], 'total', used - redis.call('HGET', KEYS[2], 'total'))
end
return 0
"""
)
"""What actors can do to a stream that would stop them all for good: an entry with the last id there
is, after which there can be no other, and more bytes than the stream has memory. Answers 1 where it
made the stream anew: call it once all entries were delivered, then nobody loses any."""
