"""The steps on Redis that must be one step, as Lua. Each may run twice: redis-py repeats a command whose answer it
did not get, so a script that had already run must give the same answer again and change nothing more."""

from __future__ import annotations

from typing import Final

__all__ = ["ACQUIRE", "LEAVE", "RECORD", "RELEASE", "RENEW"]

RECORD: Final = """
-- For each result KEYS: result. ARGV: body, generation, ttl in ms, channel, task id. 1: recorded, 0: there was one, or
-- an error, which is that result's own.
local function record(key, body, generation, ttl, channel, id)
  local known = redis.call('GET', key)
  if known then
    if known == body then return 1 end
    local readable, old = pcall(cjson.decode, known)
    if readable and (old['generation'] or 0) >= tonumber(generation) then return 0 end
  end
  redis.call('SET', key, body, 'PX', ttl)
  redis.call('PUBLISH', channel, id)
  return 1
end
local answers = {}
for i, key in ipairs(KEYS) do
  local ok, answer = pcall(record, key, unpack(ARGV, 5 * i - 4, 5 * i))
  answers[i] = (ok or type(answer) == 'table') and answer or {err = answer}
end
return answers
"""

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
