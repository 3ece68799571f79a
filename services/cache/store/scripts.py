"""
The key-value store's steps as Valkey runs them: each script is one atomic step.

A namespace lives in one hash slot, under names that begin with `base`:

    meta    hash: epoch, seq (the newest sequence), kept (the log reaches back to what follows it), bytes, evicted
    tags    sorted set: the sequence at which each tag was invalidated last; '' bears the epoch, negated
    names   sorted set, all of score 0: the keys in order
    sizes   hash: bytes by key            ends   sorted set: the keys by the time at which they expire, in ms
    log     stream: what changed, by sequence
    k:KEY   hash, expires: v (value), e (epoch), s (sequence of the write), t (tags, a line each)
    l:KEY   the token of the lease to fill KEY, expires

Sequences follow the clock in microseconds and never go back, so that they go on growing when Valkey comes back empty.
An entry counts only while its epoch is that of `meta` and of `tags`: whichever of them Valkey has lost, to a restart or
to its eviction, everything older is gone with it, and no invalidation is ever forgotten.
"""

from __future__ import annotations

from services.cache.store.valkey import Script

# What an entry costs in Valkey beside its key, its value and its tags (measured, docs/adr/0013).
OVERHEAD = 600
# The log is cut back to the second when it is longer than the first.
_LOG = (12_000, 10_000)

_COMMON = """
local base = ARGV[1]
local meta, tags, names = base .. ':meta', base .. ':tags', base .. ':names'
local sizes, ends, log = base .. ':sizes', base .. ':ends', base .. ':log'
local function text(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local micro = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local milli = math.floor(micro / 1000)

local epoch = redis.call('HGET', meta, 'epoch')
if epoch then
    local mark = redis.call('ZSCORE', tags, '')
    if not mark or text(-tonumber(mark)) ~= epoch then epoch = false end
end

local function alive(key)
    local found = redis.call('HMGET', base .. ':k:' .. key, 'v', 'e', 's', 't')
    if not found[1] or not epoch or found[2] ~= epoch then return nil end
    for tag in string.gmatch(found[4], '[^\\n]+') do
        local moved = redis.call('ZSCORE', tags, tag)
        if moved and tonumber(moved) > tonumber(found[3]) then return nil end
    end
    return found
end

local function told(key, found)
    return {key, found[1], found[4], redis.call('PEXPIRETIME', base .. ':k:' .. key)}
end

local function head() return epoch and redis.call('HGET', meta, 'seq') or '0' end
"""

_WRITING = (
    _COMMON
    + f"""
if not epoch then
    redis.call('UNLINK', meta, tags, names, sizes, ends, log)
    epoch = text(micro)
    redis.call('HSET', meta, 'epoch', epoch, 'seq', epoch, 'kept', epoch, 'bytes', 0, 'evicted', 0)
    redis.call('ZADD', tags, text(-micro), '')
end

local function following()
    local seq = text(math.max(tonumber(redis.call('HGET', meta, 'seq')) + 1, micro))
    redis.call('HSET', meta, 'seq', seq)
    return seq
end

local function forget(key)
    local size = redis.call('HGET', sizes, key)
    if size then
        redis.call('HDEL', sizes, key)
        redis.call('ZREM', ends, key)
        redis.call('ZREM', names, key)
        redis.call('HINCRBY', meta, 'bytes', -tonumber(size))
    end
    redis.call('UNLINK', base .. ':k:' .. key)
end

local function sweep(most)
    local expired = redis.call('ZRANGEBYSCORE', ends, '-inf', text(milli), 'LIMIT', 0, most)
    for _, key in ipairs(expired) do forget(key) end
    if #expired > 0 then redis.call('HINCRBY', meta, 'evicted', #expired) end
    return #expired
end

local function size_of(key, value, marks) return #key + #value + #marks + {OVERHEAD} end

local function fits(added, most)
    if redis.call('ZCARD', names) == 0 then redis.call('HSET', meta, 'bytes', 0) end
    while tonumber(redis.call('HGET', meta, 'bytes')) + added > most do
        if sweep(500) == 0 then return false end
    end
    return true
end

local function growth(key, value, marks)
    return size_of(key, value, marks) - tonumber(redis.call('HGET', sizes, key) or 0)
end

local function store(key, value, ttl, marks, seq)
    local name, last = base .. ':k:' .. key, text(milli + tonumber(ttl))
    local added = growth(key, value, marks)
    redis.call('UNLINK', name, base .. ':l:' .. key)
    redis.call('HSET', name, 'v', value, 'e', epoch, 's', seq, 't', marks)
    redis.call('PEXPIREAT', name, last)
    redis.call('HSET', sizes, key, size_of(key, value, marks))
    redis.call('ZADD', ends, last, key)
    redis.call('ZADD', names, 0, key)
    redis.call('HINCRBY', meta, 'bytes', added)
    return tonumber(last)
end

local function tell(seq, fields)
    redis.call('XADD', log, seq .. '-0', unpack(fields))
    if redis.call('XLEN', log) > {_LOG[0]} then
        redis.call('XTRIM', log, 'MAXLEN', {_LOG[1]})
        local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1]
        redis.call('HSET', meta, 'kept', text(tonumber(string.match(first, '%d+')) - 1))
    end
end
"""
)

# ARGV: base, key … → {sequence, {key, value, tags, expiry in ms} or false …}
GET = Script(
    _COMMON
    + """
local answer = {head()}
for index = 2, #ARGV do
    local found = alive(ARGV[index])
    answer[#answer + 1] = found and told(ARGV[index], found) or false
end
return answer
"""
)

# ARGV: base, most bytes, (key, value, ttl in ms, tags) … → {sequence, expiry in ms} or QUOTA
SET = Script(
    _WRITING
    + """
sweep(20)
local added, fields, last = 0, {}, 0
for index = 3, #ARGV, 4 do added = added + math.max(0, growth(ARGV[index], ARGV[index + 1], ARGV[index + 3])) end
if not fits(added, tonumber(ARGV[2])) then return 'QUOTA' end
local seq = following()
for index = 3, #ARGV, 4 do
    last = store(ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3], seq)
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = ARGV[index]
end
tell(seq, fields)
return {seq, last}
"""
)

# ARGV: base, key … → {sequence, how many there were}
DELETE = Script(
    _WRITING
    + """
local seq, fields, count = following(), {}, 0
for index = 2, #ARGV do
    if alive(ARGV[index]) then count = count + 1 end
    forget(ARGV[index])
    redis.call('UNLINK', base .. ':l:' .. ARGV[index])
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = ARGV[index]
end
tell(seq, fields)
return {seq, count}
"""
)

# ARGV: base, key, ttl in ms → expiry in ms, or false
TOUCH = Script(
    _WRITING
    + """
if not alive(ARGV[2]) then return false end
local last = text(milli + tonumber(ARGV[3]))
-- Copies in memory live no longer than they were told to: only a shorter life has to be told.
if tonumber(last) < redis.call('PEXPIRETIME', base .. ':k:' .. ARGV[2]) then tell(following(), {'k', ARGV[2]}) end
redis.call('PEXPIREAT', base .. ':k:' .. ARGV[2], last)
redis.call('ZADD', ends, last, ARGV[2])
return tonumber(last)
"""
)

# ARGV: base, the longest ttl in ms, tag … → sequence
INVALIDATE = Script(
    _WRITING
    + """
local seq, fields = following(), {}
for index = 3, #ARGV do
    redis.call('ZADD', tags, seq, ARGV[index])
    fields[#fields + 1] = 't'
    fields[#fields + 1] = ARGV[index]
end
-- What was invalidated longer ago than anything can live has nothing left to void.
redis.call('ZREMRANGEBYSCORE', tags, '(0', '(' .. text(micro - tonumber(ARGV[2]) * 1000))
tell(seq, fields)
return seq
"""
)

# ARGV: base, key, lease in ms → {'entry', sequence, entry} or {'lease', token, expiry in ms} or {'wait', ms}
GET_OR_LEASE = Script(
    _WRITING
    + """
local found = alive(ARGV[2])
if found then return {'entry', head(), told(ARGV[2], found)} end
local name = base .. ':l:' .. ARGV[2]
local left = redis.call('PTTL', name)
if left > 0 and tonumber(redis.call('GET', name)) > tonumber(epoch) then return {'wait', left} end
local token = following()
redis.call('SET', name, token, 'PX', ARGV[3])
return {'lease', token, milli + tonumber(ARGV[3])}
"""
)

# ARGV: base, most bytes, token, key, value, ttl in ms, tags → {sequence, expiry in ms} or LOST or QUOTA
FILL = Script(
    _WRITING
    + """
local token, key, value, ttl, marks = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if redis.call('GET', base .. ':l:' .. key) ~= token or tonumber(token) <= tonumber(epoch) then return 'LOST' end
for tag in string.gmatch(marks, '[^\\n]+') do
    local moved = redis.call('ZSCORE', tags, tag)
    if moved and tonumber(moved) > tonumber(token) then return 'LOST' end
end
sweep(20)
if not fits(math.max(0, growth(key, value, marks)), tonumber(ARGV[2])) then return 'QUOTA' end
local seq = following()
local last = store(key, value, ttl, marks, seq)
tell(seq, {'k', key})
return {seq, last}
"""
)

# ARGV: base, most bytes, key, delta, ttl in ms → {sequence, value} or NAN or OVERFLOW or QUOTA
INCREMENT = Script(
    _WRITING
    + """
local key, name = ARGV[3], base .. ':k:' .. ARGV[3]
if not alive(key) then
    sweep(20)
    if not fits(math.max(0, growth(key, '0', '')), tonumber(ARGV[2])) then return 'QUOTA' end
    store(key, '0', ARGV[5], '', text(micro))
end
local value = redis.pcall('HINCRBY', name, 'v', ARGV[4])
if type(value) == 'table' then
    return string.find(value.err, 'overflow') and 'OVERFLOW' or 'NAN'
end
local seq = following()
redis.call('HSET', name, 's', seq)
tell(seq, {'k', key})
return {seq, redis.call('HGET', name, 'v')}
"""
)

# ARGV: base, the first name in ZRANGEBYLEX's terms, the last, how many → the keys in order
SCAN = Script(
    _COMMON
    + """
if not epoch then return {} end
local answer, from = {}, ARGV[2]
while #answer < tonumber(ARGV[4]) do
    local some = redis.call('ZRANGEBYLEX', names, from, ARGV[3], 'LIMIT', 0, 1000)
    if #some == 0 then break end
    for _, key in ipairs(some) do
        if #answer == tonumber(ARGV[4]) then break end
        if alive(key) then answer[#answer + 1] = key end
    end
    from = '(' .. some[#some]
end
return answer
"""
)

# ARGV: base → {entries, bytes, evicted}
STATS = Script(
    _COMMON
    + """
if not epoch then return {0, 0, 0} end
local found = redis.call('HMGET', meta, 'bytes', 'evicted')
return {redis.call('ZCOUNT', ends, '(' .. text(milli), '+inf'), tonumber(found[1]), tonumber(found[2])}
"""
)

# ARGV: base, after, how many → {epoch, head, kept, {{sequence, {"k", key …}} …}}
LOG = Script(
    _COMMON
    + """
if not epoch then return {'0', '0', '0', {}} end
local found, answer = redis.call('XRANGE', log, '(' .. ARGV[2] .. '-0', '+', 'COUNT', ARGV[3]), {}
for _, entry in ipairs(found) do answer[#answer + 1] = {string.match(entry[1], '%d+'), entry[2]} end
return {epoch, head(), redis.call('HGET', meta, 'kept'), answer}
"""
)
