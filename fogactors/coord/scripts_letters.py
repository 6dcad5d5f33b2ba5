"""The steps of the dead letters' index on Redis, as Lua; each may run twice, as those of `scripts.py`.

Each script takes all of `KEYS`, in this order:

1. letters: a hash, id to the JSON of a `ParkedLetter`, as it was read from the stream;
2. order: a sorted set, id by offset. It has the last word on the offset;
3. fates: a hash, id to the JSON of a `DeadLetterFate`. Apart, so that no letter is encoded again when its state
   changes; a fate whose letter is not here is kept, as a purged one keeps copies out;
4. ages: a sorted set, all ids of letters and fates by the time (µs) after which they may be swept;
5. position: the stream's offset up to which all is applied.

No step looks at more than it is given or returns more than it is asked for, so none holds up the store.
"""

from __future__ import annotations

from typing import Final

__all__ = ["APPLY", "COUNT", "DUE", "FORGET", "KEYS", "LETTER", "MARK", "PAGE", "POSITION"]

KEYS: Final = ["fog:dlq:letters", "fog:dlq:order", "fog:dlq:fates", "fog:dlq:ages", "fog:dlq:position"]

_SOUND: Final = """
-- Where one of the keys is of a foreign type the whole index is forgotten: whoever reads the stream sees that it has
-- no position, and builds it again. Half an index could not be told from a whole one.
for i, kind in ipairs({'hash', 'zset', 'hash', 'zset', 'string'}) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', unpack(KEYS))
    break
  end
end
local LETTERS, ORDER, FATES, AGES, POSITION = unpack(KEYS)

-- A number, or nothing: what is no offset is as good as none.
local function position()
  return tonumber(string.match(redis.call('GET', POSITION) or '', '^%d+$'))
end

-- What a hash holds under an id, or nothing where it cannot be read: then what comes takes its place.
local function known(hash, id)
  local body = redis.call('HGET', hash, id)
  if not body then return nil end
  local readable, value = pcall(cjson.decode, body)
  if not readable or type(value) ~= 'table' or value.id ~= id then return nil end
  value.generation = tonumber(value.generation) or 0
  value.revision = tonumber(value.revision) or 0
  return value
end
"""

_MARK: Final = """
local function mark(id, generation, state, body, age)
  local letter, before = known(LETTERS, id), known(FATES, id)
  if letter and letter.generation ~= generation then return end
  if before and before.generation > generation then return end
  -- What comes round by the stream only now was written before the letter was purged.
  if before and before.generation == generation and before.state == 'purged' then return end
  if state == 'purged' then
    -- First what frees memory: a store that is full does what follows in the same script, so one can purge there.
    redis.call('HDEL', LETTERS, id)
    redis.call('ZREM', ORDER, id)
    letter = nil
  end
  redis.call('HSET', FATES, id, body)
  if not letter then redis.call('ZADD', AGES, age, id) end
end
"""

POSITION: Final = (
    _SOUND
    + """
return position()
"""
)

APPLY: Final = (
    _SOUND
    + _MARK
    + """
-- ARGV: after ('' for none), upto, then six for each record: id, generation, revision or '' for a fate, offset or
-- the fate's state, body, age. The position, or nothing.
local function add(id, generation, revision, offset, body, age)
  local letter, fate = known(LETTERS, id), known(FATES, id)
  if fate and fate.state == 'purged' and fate.generation >= generation then return end
  if letter then
    if letter.generation > generation then return end
    if letter.generation == generation and letter.revision >= revision then
      if letter.revision == revision then redis.call('ZADD', ORDER, offset, id) end
      return
    end
  end
  redis.call('HSET', LETTERS, id, body)
  redis.call('ZADD', ORDER, offset, id)
  redis.call('ZADD', AGES, age, id)
end
local at = position()
if at ~= tonumber(ARGV[1]) then return at end
for i = 3, #ARGV, 6 do
  local id, generation, revision, where, body, age = unpack(ARGV, i, i + 5)
  if revision == '' then
    mark(id, tonumber(generation), where, body, age)
  else
    add(id, tonumber(generation), tonumber(revision), where, body, age)
  end
end
redis.call('SET', POSITION, ARGV[2])
return tonumber(ARGV[2])
"""
)

MARK: Final = (
    _SOUND
    + _MARK
    + """
-- ARGV: id, generation, state, body, age.
mark(ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5])
"""
)

LETTER: Final = (
    _SOUND
    + """
-- ARGV: id. Letter, offset, fate; nothing for each that is not here.
local id = ARGV[1]
return {redis.call('HGET', LETTERS, id), redis.call('ZSCORE', ORDER, id), redis.call('HGET', FATES, id)}
"""
)

PAGE: Final = (
    _SOUND
    + """
-- ARGV: offset from which on, how many of that offset to leave out, how many at most. Ids and offsets by turns,
-- their letters, their fates.
local entries = redis.call('ZRANGE', ORDER, ARGV[1], '+inf', 'BYSCORE', 'LIMIT', ARGV[2], ARGV[3], 'WITHSCORES')
if #entries == 0 then return {entries, entries, entries} end
local ids = {}
for i = 1, #entries, 2 do ids[#ids + 1] = entries[i] end
return {entries, redis.call('HMGET', LETTERS, unpack(ids)), redis.call('HMGET', FATES, unpack(ids))}
"""
)

COUNT: Final = (
    _SOUND
    + """
return redis.call('HLEN', LETTERS)
"""
)

DUE: Final = (
    _SOUND
    + """
-- ARGV: time in µs, how many at most. Ids that are older, and how many of them are letters.
local ids = redis.call('ZRANGE', AGES, '-inf', '(' .. ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
local letters = 0
for _, id in ipairs(ids) do letters = letters + redis.call('HEXISTS', LETTERS, id) end
return {ids, letters}
"""
)

FORGET: Final = (
    _SOUND
    + """
-- ARGV: time in µs, ids. Only those that are still older: a letter may have come again meanwhile.
for i = 2, #ARGV do
  local age = redis.call('ZSCORE', AGES, ARGV[i])
  if age and tonumber(age) < tonumber(ARGV[1]) then
    redis.call('HDEL', LETTERS, ARGV[i])
    redis.call('HDEL', FATES, ARGV[i])
    redis.call('ZREM', ORDER, ARGV[i])
    redis.call('ZREM', AGES, ARGV[i])
  end
end
"""
)
