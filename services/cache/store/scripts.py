"""
The key-value store's steps as Valkey runs them: each script is one atomic step.

A namespace lives in one hash slot, under names that begin with `base`:

    meta    hash: epoch, seq (the newest sequence), kept (the log reaches back to what follows it), floor (what has tags
            and was written up to it is void), bytes, tagged, logged (what entries, tags and the log take), evicted,
            hand (where the search for what is gone goes on)
    tags    sorted set: the sequence at which each tag was invalidated last; '' bears the epoch, negated
    names   sorted set, all of score 0: the keys in order; '' is there always
    sizes   hash: bytes by key; '' bears the epoch
    ends    sorted set: the keys by the time at which they expire, in ms; '' is there always, and never expires
    log     stream: what changed, by sequence; there always, even if empty
    k:KEY   hash, expires: v (value), e (epoch), s (sequence of the write), t (tags, a line each)
    l:KEY   the token of the lease to fill KEY, expires

Sequences follow the clock in microseconds and never go back, so that they go on growing when Valkey comes back empty.
An entry counts only while its epoch is that of `meta` and all the other parts are there, too: whichever of them Valkey
has lost, to a restart or to its eviction, everything older is gone with it, and no invalidation is ever forgotten. A
lost log alone is begun anew, after the newest sequence: whoever follows it learns that something is missing.

Valkey has one thread, and a script that has written cannot be ended but with the whole server. So every loop here has a
bound that does not depend on what is found: what takes more is told to the caller (AGAIN), who comes again.
"""

from __future__ import annotations

from services.cache.store.valkey import Script

# What an entry costs in Valkey beside its key, its value and its tags (measured, docs/adr/0013).
OVERHEAD = 600
# What a tag costs beside its name, and an entry of the log beside its names and with each (measured, docs/adr/0032).
_TAG_OVERHEAD = 120
_LOG_OVERHEAD = (60, 16)
# How the quota is shared out, in sixteenths; the rest is for entries. The log is never larger than the last.
_TAGS_SHARE, _LOG_SHARE, _MOST_LOG_BYTES = 3, 1, 8 << 20
# How many names a scan looks at, whatever it finds.
SCANNED = 1000

_COMMON = """
local base = ARGV[1]
local meta, tags, names = base .. ':meta', base .. ':tags', base .. ':names'
local sizes, ends, log = base .. ':sizes', base .. ':ends', base .. ':log'
local function text(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local micro = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local milli = math.floor(micro / 1000)

local known = redis.call('HMGET', meta, 'epoch', 'floor')
local epoch, floor = known[1], tonumber(known[2] or 0)
if epoch then
    local mark = redis.call('ZSCORE', tags, '')
    if not mark or text(-tonumber(mark)) ~= epoch or redis.call('HGET', sizes, '') ~= epoch
        or not redis.call('ZSCORE', names, '') or not redis.call('ZSCORE', ends, '') then epoch = false end
end

-- Whether one of the tags, or all that were forgotten, was invalidated after a sequence.
local function void(marks, sequence)
    if marks == '' then return false end
    if sequence <= floor then return true end
    for tag in string.gmatch(marks, '[^\\n]+') do
        local moved = redis.call('ZSCORE', tags, tag)
        if moved and tonumber(moved) > sequence then return true end
    end
    return false
end

-- The tags of an entry that counts. Its value is not read: it may be large.
local function alive(key)
    local found = redis.call('HMGET', base .. ':k:' .. key, 'e', 's', 't')
    if not epoch or found[1] ~= epoch or void(found[3], tonumber(found[2])) then return nil end
    return found[3]
end

local function told(key, marks)
    local name = base .. ':k:' .. key
    return {key, redis.call('HGET', name, 'v'), marks, redis.call('PEXPIRETIME', name)}
end

local function head() return epoch and redis.call('HGET', meta, 'seq') or '0' end
"""

# ARGV[2] of all of them is the namespace's quota, in bytes.
_WRITING = (
    _COMMON
    + f"""
local quota = tonumber(ARGV[2])
local most_tagged, most_logged = quota * {_TAGS_SHARE} / 16, math.min(quota * {_LOG_SHARE} / 16, {_MOST_LOG_BYTES})
local most_bytes = quota - most_tagged - most_logged

-- The log holds nothing that was before this, and says so.
local function cut(seq)
    redis.call('UNLINK', log)
    redis.call('XADD', log, seq .. '-0', 'e', '')
    redis.call('HSET', meta, 'kept', seq, 'logged', 0)
end

if not epoch then
    local seq = math.max(micro, tonumber(redis.call('HGET', meta, 'seq') or 0) + 1)
    redis.call('UNLINK', meta, tags, names, sizes, ends)
    epoch, floor = text(seq), 0
    redis.call('HSET', meta, 'epoch', epoch, 'seq', epoch, 'bytes', 0, 'tagged', 0, 'evicted', 0)
    redis.call('ZADD', tags, text(-seq), '')
    redis.call('ZADD', names, 0, '')
    redis.call('HSET', sizes, '', epoch)
    redis.call('ZADD', ends, '+inf', '')
    cut(epoch)
elseif redis.call('EXISTS', log) == 0 then
    cut(redis.call('HGET', meta, 'seq'))
end

local function following()
    local seq = text(math.max(tonumber(redis.call('HGET', meta, 'seq')) + 1, micro))
    redis.call('HSET', meta, 'seq', seq)
    return seq
end

local function count(field) return tonumber(redis.call('HGET', meta, field) or 0) end

local function logged_size(fields)
    local size = {_LOG_OVERHEAD[0]}
    for index = 2, #fields, 2 do size = size + #fields[index] + {_LOG_OVERHEAD[1]} end
    return size
end

-- The oldest go until the log has its size again: about as many bytes as were added.
local function shorten(seq, logged)
    local last = nil
    for _ = 1, 200 do
        local some = redis.call('XRANGE', log, last and '(' .. last or '-', '+', 'COUNT', 5)
        for _, entry in ipairs(some) do
            if logged <= most_logged then break end
            logged, last = logged - logged_size(entry[2]), entry[1]
        end
        if logged <= most_logged or #some < 5 then break end
    end
    if not last or logged > most_logged then return cut(seq) end
    local kept = string.match(last, '%d+')
    redis.call('XTRIM', log, 'MINID', text(tonumber(kept) + 1) .. '-0')
    redis.call('HSET', meta, 'kept', kept, 'logged', math.max(0, logged))
end

local function tell(seq, fields)
    local size = logged_size(fields)
    if size > most_logged then return cut(seq) end
    redis.call('XADD', log, seq .. '-0', unpack(fields))
    local logged = redis.call('HINCRBY', meta, 'logged', size)
    if logged > most_logged then shorten(seq, logged) end
end

local function forget(key)
    local size = tonumber(redis.call('HGET', sizes, key) or 0)
    redis.call('HDEL', sizes, key)
    redis.call('ZREM', ends, key)
    redis.call('ZREM', names, key)
    redis.call('HINCRBY', meta, 'bytes', -size)
    redis.call('UNLINK', base .. ':k:' .. key)
end

-- Forget what has expired.
local function sweep(most)
    local expired = redis.call('ZRANGEBYSCORE', ends, '-inf', text(milli), 'LIMIT', 0, most)
    for _, key in ipairs(expired) do forget(key) end
    if #expired > 0 then redis.call('HINCRBY', meta, 'evicted', #expired) end
    return #expired
end

-- Forget what is gone or void before its time: look at some names, and go on there the next time.
local function patrol(most)
    local hand = redis.call('HGET', meta, 'hand') or ''
    local some = redis.call('ZRANGEBYLEX', names, '(' .. hand, '+', 'LIMIT', 0, most)
    local evicted, dead = {{}}, 0
    for _, key in ipairs(some) do
        if not alive(key) then
            if redis.call('EXISTS', base .. ':k:' .. key) == 0 then
                -- Whoever has it in memory would not be told by a Delete that finds no name any more.
                evicted[#evicted + 1] = 'k'
                evicted[#evicted + 1] = key
            end
            forget(key)
            dead = dead + 1
        end
    end
    redis.call('HSET', meta, 'hand', #some < most and '' or some[#some])
    if #evicted > 0 then tell(following(), evicted) end
    if dead > 0 then redis.call('HINCRBY', meta, 'evicted', dead) end
    return dead
end

local function size_of(key, value, marks) return #key + #value + #marks + {OVERHEAD} end

local function growth(key, value, marks)
    return math.max(0, size_of(key, value, marks) - tonumber(redis.call('HGET', sizes, key) or 0))
end

-- Make room for what `needed` says: nil, QUOTA, or AGAIN when there was something to forget, and more may be.
local function refused(needed)
    local freed = sweep(20) + patrol(5)
    if count('bytes') + needed() <= most_bytes then return nil end
    freed = freed + sweep(1000)
    if count('bytes') + needed() <= most_bytes then return nil end
    freed = freed + patrol(200)
    if count('bytes') + needed() <= most_bytes then return nil end
    return freed > 0 and 'AGAIN' or 'QUOTA'
end

local function store(key, value, ttl, marks, seq)
    local name, last = base .. ':k:' .. key, text(milli + tonumber(ttl))
    local size = size_of(key, value, marks)
    redis.call('HINCRBY', meta, 'bytes', size - tonumber(redis.call('HGET', sizes, key) or 0))
    redis.call('UNLINK', name, base .. ':l:' .. key)
    redis.call('HSET', name, 'v', value, 'e', epoch, 's', seq, 't', marks)
    redis.call('PEXPIREAT', name, last)
    redis.call('HSET', sizes, key, size)
    redis.call('ZADD', ends, last, key)
    redis.call('ZADD', names, 0, key)
    return tonumber(last)
end

-- Forget the oldest tags, from a score on and up to another, until they take no more than `most`: their size.
local function untag(last, most)
    local tagged, newest = count('tagged'), nil
    for _ = 1, 100 do
        if tagged <= most then break end
        local some = redis.call('ZRANGEBYSCORE', tags, '(0', last, 'WITHSCORES', 'LIMIT', 0, 100)
        local gone = {{}}
        for index = 1, #some, 2 do
            if tagged <= most then break end
            gone[#gone + 1], newest = some[index], some[index + 1]
            tagged = tagged - #some[index] - {_TAG_OVERHEAD}
        end
        if #gone == 0 then break end
        redis.call('ZREM', tags, unpack(gone))
    end
    redis.call('HSET', meta, 'tagged', math.max(0, tagged))
    return newest
end
"""
)

# ARGV: base, most bytes, key … → {sequence, {key, value, tags, expiry in ms} or false …} or LARGE
GET = Script(
    _COMMON
    + """
local answer, size = {head()}, 0
for index = 3, #ARGV do
    local marks = alive(ARGV[index])
    if marks then
        -- Asked for before it is read: a thousand large values would be memory that nobody gets.
        size = size + redis.call('HSTRLEN', base .. ':k:' .. ARGV[index], 'v')
        if size > tonumber(ARGV[2]) and #ARGV > 3 then return 'LARGE' end
    end
    answer[#answer + 1] = marks and told(ARGV[index], marks) or false
end
return answer
"""
)

# ARGV: base, quota, (key, value, ttl in ms, tags) … → {sequence, expiry in ms} or QUOTA or AGAIN
SET = Script(
    _WRITING
    + """
local function needed()
    local added = 0
    for index = 3, #ARGV, 4 do added = added + growth(ARGV[index], ARGV[index + 1], ARGV[index + 3]) end
    return added
end
local no = refused(needed)
if no then return no end
local seq, fields, last = following(), {}, 0
for index = 3, #ARGV, 4 do
    last = store(ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3], seq)
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = ARGV[index]
end
tell(seq, fields)
return {seq, last}
"""
)

# ARGV: base, quota, key … → {sequence, how many there were}
DELETE = Script(
    _WRITING
    + """
local fields, deleted = {}, 0
for index = 3, #ARGV do
    local key = ARGV[index]
    redis.call('UNLINK', base .. ':l:' .. key)
    if redis.call('ZSCORE', names, key) then
        if alive(key) then deleted = deleted + 1 end
        forget(key)
        fields[#fields + 1] = 'k'
        fields[#fields + 1] = key
    end
end
-- Of what is in no index nobody can have a copy: there is nothing to tell.
if #fields == 0 then return {head(), 0} end
local seq = following()
tell(seq, fields)
return {seq, deleted}
"""
)

# ARGV: base, quota, key, ttl in ms → expiry in ms, or false
TOUCH = Script(
    _WRITING
    + """
local key = ARGV[3]
if not alive(key) then return false end
local last = text(milli + tonumber(ARGV[4]))
-- Copies in memory live no longer than they were told to: only a shorter life has to be told.
if tonumber(last) < redis.call('PEXPIRETIME', base .. ':k:' .. key) then tell(following(), {'k', key}) end
redis.call('PEXPIREAT', base .. ':k:' .. key, last)
redis.call('ZADD', ends, last, key)
return tonumber(last)
"""
)

# ARGV: base, quota, the longest ttl in ms, tag … → sequence
INVALIDATE = Script(
    _WRITING
    + f"""
local seq, fields, added = following(), {{}}, 0
for index = 4, #ARGV do
    local tag = ARGV[index]
    if redis.call('ZADD', tags, seq, tag) == 1 then added = added + #tag + {_TAG_OVERHEAD} end
    fields[#fields + 1] = 't'
    fields[#fields + 1] = tag
end
redis.call('HINCRBY', meta, 'tagged', added)
-- What was invalidated longer ago than anything can live has nothing left to void.
untag('(' .. text(micro - tonumber(ARGV[3]) * 1000), 0)
-- Of tags that there is no room for, all that was written up to the newest of them is void.
local forgotten = untag('+inf', most_tagged)
if forgotten then redis.call('HSET', meta, 'floor', text(tonumber(forgotten))) end
tell(seq, fields)
return seq
"""
)

# ARGV: base, quota, key, lease in ms → {'entry', sequence, entry} or {'lease', token, expiry in ms} or {'wait', ms}
GET_OR_LEASE = Script(
    _WRITING
    + """
local found = alive(ARGV[3])
if found then return {'entry', head(), told(ARGV[3], found)} end
local name = base .. ':l:' .. ARGV[3]
local left = redis.call('PTTL', name)
if left > 0 and tonumber(redis.call('GET', name)) > tonumber(epoch) then return {'wait', left} end
local token = following()
redis.call('SET', name, token, 'PX', ARGV[4])
return {'lease', token, milli + tonumber(ARGV[4])}
"""
)

# ARGV: base, quota, token, key, value, ttl in ms, tags → {sequence, expiry in ms} or LOST or QUOTA or AGAIN
FILL = Script(
    _WRITING
    + """
local token, key, value, ttl, marks = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if redis.call('GET', base .. ':l:' .. key) ~= token or tonumber(token) <= tonumber(epoch) then return 'LOST' end
if void(marks, tonumber(token)) then return 'LOST' end
local no = refused(function() return growth(key, value, marks) end)
if no then return no end
local seq = following()
local last = store(key, value, ttl, marks, seq)
tell(seq, {'k', key})
return {seq, last}
"""
)

# ARGV: base, quota, key, delta, ttl in ms → {sequence, value} or NAN or OVERFLOW or QUOTA or AGAIN
INCREMENT = Script(
    _WRITING
    + """
local key, name = ARGV[3], base .. ':k:' .. ARGV[3]
if not alive(key) then
    local no = refused(function() return growth(key, '0', '') end)
    if no then return no end
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

# ARGV: base, the first name in ZRANGEBYLEX's terms, the last, how many → {the last name looked at, or '' when there are
# no more, the keys in order}
SCAN = Script(
    _COMMON
    + f"""
if not epoch then return {{'', {{}}}} end
local some = redis.call('ZRANGEBYLEX', names, ARGV[2], ARGV[3], 'LIMIT', 0, {SCANNED} + 1)
local keys, last = {{}}, ''
for index, key in ipairs(some) do
    if index > {SCANNED} or #keys == tonumber(ARGV[4]) then return {{last, keys}} end
    if alive(key) then keys[#keys + 1] = key end
    last = key
end
return {{'', keys}}
"""
)

# ARGV: base → {entries, bytes, evicted}
STATS = Script(
    _COMMON
    + """
if not epoch then return {0, 0, 0} end
local found = redis.call('HMGET', meta, 'bytes', 'tagged', 'logged', 'evicted')
local bytes = tonumber(found[1]) + tonumber(found[2] or 0) + tonumber(found[3] or 0)
return {redis.call('ZCOUNT', ends, '(' .. text(milli), '(+inf'), bytes, tonumber(found[4])}
"""
)

# ARGV: base, after, most bytes → {epoch, head, kept, 1 when there is no more, {{sequence, {"k", key …}} …}}
LOG = Script(
    _COMMON
    + """
if not epoch then return {'0', '0', '0', 1, {}} end
local answer, from, size = {}, '(' .. ARGV[2] .. '-0', 0
-- A log that is lost reaches back to nothing.
local kept = redis.call('EXISTS', log) == 1 and redis.call('HGET', meta, 'kept') or head()
for _ = 1, 200 do
    local some = redis.call('XRANGE', log, from, '+', 'COUNT', 5)
    for _, entry in ipairs(some) do
        answer[#answer + 1] = {string.match(entry[1], '%d+'), entry[2]}
        for index = 2, #entry[2], 2 do size = size + #entry[2][index] end
        from = '(' .. entry[1]
    end
    if #some < 5 then return {epoch, head(), kept, 1, answer} end
    if size > tonumber(ARGV[3]) then break end
end
return {epoch, head(), kept, 0, answer}
"""
)
