"""The steps on Redis that must be one step, as Lua. Each may run twice: redis-py repeats a command whose answer it
did not get, so a script that had already run must give the same answer again and change nothing more."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACQUIRE",
    "BEGIN",
    "BROKER_BEAT",
    "CANCEL",
    "CANCELLED",
    "CLAIM",
    "CONFIRM",
    "EXPIRE_MEMBERS",
    "LEAVE",
    "RECORD",
    "RELEASE",
    "RENEW",
]

RECORD: Final = """
-- For each result KEYS: result, attempt. ARGV: body, generation, ttl in ms, channel, task id. 1: recorded, 0: there was
-- one, or an error, which is that result's own. What is known of its attempts ends with the record that stands: were it
-- kept for longer, the same task, submitted again, would be taken for a copy of one that has ended.
local function record(key, attempt, body, generation, ttl, channel, id)
  local known = redis.call('GET', key)
  if known then
    local readable, old = pcall(cjson.decode, known)
    if known == body or (readable and (old['generation'] or 0) >= tonumber(generation)) then
      local rest = redis.call('PTTL', key)
      if rest > 0 then redis.call('PEXPIRE', attempt, rest) end
      return known == body and 1 or 0
    end
  end
  redis.call('SET', key, body, 'PX', ttl)
  redis.call('PEXPIRE', attempt, ttl)
  redis.call('PUBLISH', channel, id)
  return 1
end
local answers = {}
for i = 1, #KEYS / 2 do
  local ok, answer = pcall(record, KEYS[2 * i - 1], KEYS[2 * i], unpack(ARGV, 5 * i - 4, 5 * i))
  answers[i] = (ok or type(answer) == 'table') and answer or {err = answer}
end
return answers
"""

CANCEL: Final = """
-- KEYS: result, cancelled, attempt. ARGV: body, generation, ttl in ms, channel, task id, how long to remember in ms.
-- The record that stands; the attempt ends with it, as in RECORD. Remembered is `<generation>:<id>` until a time by
-- this server's clock, which all clients share: one whose own clock is wrong by days would forget for the others.
local standing = redis.call('GET', KEYS[1])
local remember = standing == ARGV[1]
if standing and not remember then
  local readable, old = pcall(cjson.decode, standing)
  if readable and type(old) == 'table' then
    local generation = tonumber(old['generation']) or 0
    if generation > tonumber(ARGV[2]) then return standing end
    if generation == tonumber(ARGV[2]) then
      if old['state'] ~= 'cancelled' then return standing end
      remember = true
    end
  end
end
if not remember then
  standing = ARGV[1]
  redis.call('SET', KEYS[1], standing, 'PX', ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
local kind, time = redis.call('TYPE', KEYS[2]).ok, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[2]) end
redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[2] .. ':' .. ARGV[5])
-- More go than come, and never so many that others wait for it.
local gone = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
return standing
"""

CANCELLED: Final = """
-- KEYS: cancelled. ARGV: cursor, about how many. The next cursor ('0' at the end), and those that are still remembered.
-- By ZSCAN, which gives all that stay meanwhile; by rank one would be passed over for each that goes.
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return {'0', {}} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found, live = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), {}
for i = 1, #found[2], 2 do
  if tonumber(found[2][i + 1]) > now then live[#live + 1] = found[2][i] end
end
return {found[1], live}
"""

_CLAIMS: Final = """
-- `p:` (pending) or `c:` (confirmed) and the task id; anything else is somebody else's, and is written over.
local function held()
  if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return nil end
  return string.match(redis.call('GET', KEYS[1]), '^[pc]:(.+)$')
end
"""

CLAIM: Final = (
    _CLAIMS
    + """
-- KEYS: claim. ARGV: task id, ttl in ms. What stands there now.
if not held() then redis.call('SET', KEYS[1], 'p:' .. ARGV[1], 'PX', ARGV[2]) end
return redis.call('GET', KEYS[1])
"""
)

BEGIN: Final = """
-- KEYS: attempt, result, starts. ARGV: attempt, mark, hops, ttl in ms, generation, start. 0: a later one has begun, or
-- another copy; otherwise how many starts of this very copy there are. Where the task has ended meanwhile it ends with
-- the record, as in RECORD. The starts have a key of their own: whoever knows nothing of them must go on to understand
-- the other, and may write it; so they say themselves which copy they are of.
local known = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''
local attempt, hops, mark = string.match(known, '^(%d+) (%d+) (.*)$')
if attempt then
  local begun, mine = tonumber(attempt), tonumber(ARGV[1])
  if begun > mine or (begun == mine and (mark ~= ARGV[2] or tonumber(hops) > tonumber(ARGV[3]))) then return 0 end
end
local ttl = tonumber(ARGV[4])
local record = redis.call('TYPE', KEYS[2]).ok == 'string' and redis.call('GET', KEYS[2])
if record then
  local readable, ended = pcall(cjson.decode, record)
  local rest = redis.call('PTTL', KEYS[2])
  if readable and rest > 0 and (ended['generation'] or 0) >= tonumber(ARGV[5]) then ttl = rest end
end
local copy = ARGV[1] .. ' ' .. ARGV[3] .. ' ' .. ARGV[2]
redis.call('SET', KEYS[1], copy, 'PX', ttl)
local of = 'of ' .. copy
local is_set = redis.call('TYPE', KEYS[3]).ok == 'set'
if not (known == copy and is_set and redis.call('SISMEMBER', KEYS[3], of) == 1) then redis.call('DEL', KEYS[3]) end
redis.call('SADD', KEYS[3], of, ARGV[6])
redis.call('PEXPIRE', KEYS[3], ttl)
return redis.call('SCARD', KEYS[3]) - 1
"""

CONFIRM: Final = (
    _CLAIMS
    + """
-- KEYS: claim. ARGV: task id, ttl in ms. One that ran out meanwhile is taken again: the task is in the broker.
if (held() or ARGV[1]) == ARGV[1] then redis.call('SET', KEYS[1], 'c:' .. ARGV[1], 'PX', ARGV[2]) end
"""
)

ACQUIRE: Final = """
-- KEYS: lease, fence. ARGV: owner, ttl in ms. The token, or 0: another holds it. The fence never expires.
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(redis.call('GET', KEYS[2]))
end
if owner then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('INCR', KEYS[2])
"""

RENEW: Final = """
-- KEYS: lease, fence. ARGV: owner, token, ttl in ms. 1: renewed, 0: lost.
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 0
"""

RELEASE: Final = """
-- KEYS: lease, fence. ARGV: owner, token.
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""

LEAVE: Final = """
-- KEYS: group, lease, fence. ARGV: member, owner, token. 1: done, 0: the lease is lost.
if redis.call('GET', KEYS[2]) ~= ARGV[2] or redis.call('GET', KEYS[3]) ~= ARGV[3] then return 0 end
redis.call('SREM', KEYS[1], ARGV[1])
return 1
"""

BROKER_BEAT: Final = """
-- KEYS: heartbeat, brokers. ARGV: node, ttl in ms. The time is this server's, as for cancellations.
redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[1])
"""

EXPIRE_MEMBERS: Final = """
-- KEYS: members, brokers, lease, fence, watch. ARGV: owner, token, how long to have looked in ms. Those removed, or
-- nothing: the lease is lost. Since when this lease looks is kept here, and is lost when the heartbeats are.
if redis.call('GET', KEYS[3]) ~= ARGV[1] or redis.call('GET', KEYS[4]) ~= ARGV[2] then return false end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local token, since = string.match(redis.call('GET', KEYS[5]) or '', '^(%d+) (%d+)$')
if token ~= ARGV[2] then
  since = now
  redis.pcall('SET', KEYS[5], string.format('%s %.0f', ARGV[2], now)) -- a full store takes none: it looks from now on
end
local gone = {}
if now - tonumber(since) < tonumber(ARGV[3]) then return gone end
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', 'rabbitmq:node:' .. node .. ':heartbeat') == 0 then
    gone[#gone + 1] = node
    redis.call('SREM', KEYS[1], node)
    redis.call('SREM', KEYS[2], node)
  end
end
return gone
"""
