"""
The Lua scripts of the key-value cache; Valkey runs each of them atomically.

A namespace is in one hash slot, under names that begin with `base`:

    meta    hash: epoch, seq (the newest sequence), kept (the log contains the changes after it), floor (values with
            tags written up to it are invalid), bytes, tagged, logged (size of entries, tags and log), evicted, hand
            (where the next patrol starts)
    tags    sorted set: the sequence at which each tag was last invalidated; '' has the epoch, negated
    names   sorted set with score 0: the keys in order; '' always exists
    sizes   hash: bytes by key; '' has the epoch
    ends    sorted set: the keys by expiry, in ms; '' always exists, and never expires
    log     stream: the changes, by sequence; always exists, even if empty
    k:KEY   hash, expires: v (value), e (epoch), s (sequence of the write), t (tags, one per line)
    l:KEY   the token of the lease to fill KEY, expires

Sequences follow the clock in microseconds and never decrease, so that they continue to grow after Valkey has lost its
data. An entry is valid only while its epoch is that of `meta` and all other parts exist: when Valkey loses any of them,
in a restart or by eviction, everything older is invalid, and no invalidation is ever lost. If only the log is lost, it
is restarted after the newest sequence, and its followers see a discontinuity.

Valkey has one thread, and a script that has written can only be stopped together with the server. So every loop has a
bound that does not depend on the data: when more work is left, the script returns AGAIN, and the caller runs it again.
"""

from __future__ import annotations

from services.cache.store.valkey import Script

# Overhead of an entry in bytes, beside key, value and tags (measured, docs/adr/0013).
OVERHEAD = 600
# Overhead of a tag, and of a log entry and of each name in it, in bytes (measured, docs/adr/0032).
_TAG_OVERHEAD = 120
_LOG_OVERHEAD = (60, 16)
# Shares of the quota in sixteenths, the rest is for entries; and the maximum size of the log.
_TAGS_SHARE, _LOG_SHARE, _MOST_LOG_BYTES = 3, 1, 8 << 20
# Maximum number of keys that a scan examines.
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

-- Whether one of the tags, or a tag that was dropped, was invalidated after a sequence.
local function invalidated(marks, sequence)
    if marks == '' then return false end
    if sequence <= floor then return true end
    for tag in string.gmatch(marks, '[^\\n]+') do
        local moved = redis.call('ZSCORE', tags, tag)
        if moved and tonumber(moved) > sequence then return true end
    end
    return false
end

-- The tags of a valid entry. The value is not read, because it may be large.
local function valid_tags(key)
    local found = redis.call('HMGET', base .. ':k:' .. key, 'e', 's', 't')
    if not epoch or found[1] ~= epoch or invalidated(found[3], tonumber(found[2])) then return nil end
    return found[3]
end

local function entry_of(key, marks)
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

-- Restart the log after this sequence.
local function restart_log(seq)
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
    restart_log(epoch)
elseif redis.call('EXISTS', log) == 0 then
    restart_log(redis.call('HGET', meta, 'seq'))
end

local function next_sequence()
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

-- Trim the oldest log entries until the log is within its limit: about as many bytes as were added.
local function trim_log(seq, logged)
    local last = nil
    for _ = 1, 200 do
        local some = redis.call('XRANGE', log, last and '(' .. last or '-', '+', 'COUNT', 5)
        for _, entry in ipairs(some) do
            if logged <= most_logged then break end
            logged, last = logged - logged_size(entry[2]), entry[1]
        end
        if logged <= most_logged or #some < 5 then break end
    end
    if not last or logged > most_logged then return restart_log(seq) end
    local kept = string.match(last, '%d+')
    redis.call('XTRIM', log, 'MINID', text(tonumber(kept) + 1) .. '-0')
    redis.call('HSET', meta, 'kept', kept, 'logged', math.max(0, logged))
end

local function append_log(seq, fields)
    local size = logged_size(fields)
    if size > most_logged then return restart_log(seq) end
    redis.call('XADD', log, seq .. '-0', unpack(fields))
    local logged = redis.call('HINCRBY', meta, 'logged', size)
    if logged > most_logged then trim_log(seq, logged) end
end

local function remove(key)
    local size = tonumber(redis.call('HGET', sizes, key) or 0)
    redis.call('HDEL', sizes, key)
    redis.call('ZREM', ends, key)
    redis.call('ZREM', names, key)
    redis.call('HINCRBY', meta, 'bytes', -size)
    redis.call('UNLINK', base .. ':k:' .. key)
end

-- Remove expired entries.
local function sweep(most)
    local expired = redis.call('ZRANGEBYSCORE', ends, '-inf', text(milli), 'LIMIT', 0, most)
    for _, key in ipairs(expired) do remove(key) end
    if #expired > 0 then redis.call('HINCRBY', meta, 'evicted', #expired) end
    return #expired
end

-- Remove entries that were evicted or invalidated: examine some keys, and continue there the next time.
local function patrol(most)
    local hand = redis.call('HGET', meta, 'hand') or ''
    local some = redis.call('ZRANGEBYLEX', names, '(' .. hand, '+', 'LIMIT', 0, most)
    local evicted, dead = {{}}, 0
    for _, key in ipairs(some) do
        if not valid_tags(key) then
            if redis.call('EXISTS', base .. ':k:' .. key) == 0 then
                -- L1 caches may still have it, and a later Delete would find no key to report to them.
                evicted[#evicted + 1] = 'k'
                evicted[#evicted + 1] = key
            end
            remove(key)
            dead = dead + 1
        end
    end
    redis.call('HSET', meta, 'hand', #some < most and '' or some[#some])
    if #evicted > 0 then append_log(next_sequence(), evicted) end
    if dead > 0 then redis.call('HINCRBY', meta, 'evicted', dead) end
    return dead
end

local function size_of(key, value, marks) return #key + #value + #marks + {OVERHEAD} end

local function growth(key, value, marks)
    return math.max(0, size_of(key, value, marks) - tonumber(redis.call('HGET', sizes, key) or 0))
end

-- Free as many bytes as `needed` returns: nil on success, QUOTA, or AGAIN when some were freed and more may be.
local function make_room(needed)
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

-- Drop the oldest tags up to a score, until all take at most `most` bytes. Returns the newest dropped score.
local function drop_tags(last, most)
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
    local marks = valid_tags(ARGV[index])
    if marks then
        -- Checked before the values are read: a thousand large values would exhaust the memory.
        size = size + redis.call('HSTRLEN', base .. ':k:' .. ARGV[index], 'v')
        if size > tonumber(ARGV[2]) and #ARGV > 3 then return 'LARGE' end
    end
    answer[#answer + 1] = marks and entry_of(ARGV[index], marks) or false
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
local no = make_room(needed)
if no then return no end
local seq, fields, last = next_sequence(), {}, 0
for index = 3, #ARGV, 4 do
    last = store(ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3], seq)
    fields[#fields + 1] = 'k'
    fields[#fields + 1] = ARGV[index]
end
append_log(seq, fields)
return {seq, last}
"""
)

# ARGV: base, quota, key … → {sequence, how many existed}
DELETE = Script(
    _WRITING
    + """
local fields, deleted = {}, 0
for index = 3, #ARGV do
    local key = ARGV[index]
    redis.call('UNLINK', base .. ':l:' .. key)
    if redis.call('ZSCORE', names, key) then
        if valid_tags(key) then deleted = deleted + 1 end
        remove(key)
        fields[#fields + 1] = 'k'
        fields[#fields + 1] = key
    end
end
-- A key that is in no index has no copies: no log entry is needed.
if #fields == 0 then return {head(), 0} end
local seq = next_sequence()
append_log(seq, fields)
return {seq, deleted}
"""
)

# ARGV: base, quota, key, ttl in ms → expiry in ms, or false
TOUCH = Script(
    _WRITING
    + """
local key = ARGV[3]
if not valid_tags(key) then return false end
local last = text(milli + tonumber(ARGV[4]))
-- Copies in L1 keep their expiry: only a shorter TTL has to be reported to them.
if tonumber(last) < redis.call('PEXPIRETIME', base .. ':k:' .. key) then append_log(next_sequence(), {'k', key}) end
redis.call('PEXPIREAT', base .. ':k:' .. key, last)
redis.call('ZADD', ends, last, key)
return tonumber(last)
"""
)

# ARGV: base, quota, the longest ttl in ms, tag … → sequence
INVALIDATE = Script(
    _WRITING
    + f"""
local seq, fields, added = next_sequence(), {{}}, 0
for index = 4, #ARGV do
    local tag = ARGV[index]
    if redis.call('ZADD', tags, seq, tag) == 1 then added = added + #tag + {_TAG_OVERHEAD} end
    fields[#fields + 1] = 't'
    fields[#fields + 1] = tag
end
redis.call('HINCRBY', meta, 'tagged', added)
-- Tags invalidated longer ago than the maximum TTL have no older entries left.
drop_tags('(' .. text(micro - tonumber(ARGV[3]) * 1000), 0)
-- If tags were dropped for lack of space, values with tags written up to the newest of them are invalid.
local forgotten = drop_tags('+inf', most_tagged)
if forgotten then redis.call('HSET', meta, 'floor', text(tonumber(forgotten))) end
append_log(seq, fields)
return seq
"""
)

# ARGV: base, quota, key, lease in ms → {'entry', sequence, entry} or {'lease', token, expiry in ms} or {'wait', ms}
GET_OR_LEASE = Script(
    _WRITING
    + """
local found = valid_tags(ARGV[3])
if found then return {'entry', head(), entry_of(ARGV[3], found)} end
local name = base .. ':l:' .. ARGV[3]
local left = redis.call('PTTL', name)
if left > 0 and tonumber(redis.call('GET', name)) > tonumber(epoch) then return {'wait', left} end
local token = next_sequence()
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
if invalidated(marks, tonumber(token)) then return 'LOST' end
local no = make_room(function() return growth(key, value, marks) end)
if no then return no end
local seq = next_sequence()
local last = store(key, value, ttl, marks, seq)
append_log(seq, {'k', key})
return {seq, last}
"""
)

# ARGV: base, quota, key, delta, ttl in ms → {sequence, value} or NAN or OVERFLOW or QUOTA or AGAIN
INCREMENT = Script(
    _WRITING
    + """
local key, name = ARGV[3], base .. ':k:' .. ARGV[3]
if not valid_tags(key) then
    local no = make_room(function() return growth(key, '0', '') end)
    if no then return no end
    store(key, '0', ARGV[5], '', text(micro))
end
local value = redis.pcall('HINCRBY', name, 'v', ARGV[4])
if type(value) == 'table' then
    return string.find(value.err, 'overflow') and 'OVERFLOW' or 'NAN'
end
local seq = next_sequence()
redis.call('HSET', name, 's', seq)
append_log(seq, {'k', key})
return {seq, redis.call('HGET', name, 'v')}
"""
)

# ARGV: base, the first name in ZRANGEBYLEX's terms, the last, how many → {the last key examined, or '' at the end,
# the keys in order}
SCAN = Script(
    _COMMON
    + f"""
if not epoch then return {{'', {{}}}} end
local some = redis.call('ZRANGEBYLEX', names, ARGV[2], ARGV[3], 'LIMIT', 0, {SCANNED} + 1)
local keys, last = {{}}, ''
for index, key in ipairs(some) do
    if index > {SCANNED} or #keys == tonumber(ARGV[4]) then return {{last, keys}} end
    if valid_tags(key) then keys[#keys + 1] = key end
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

# ARGV: base, after, most bytes → {epoch, head, kept, 1 when complete, {{sequence, {"k", key …}} …}}
LOG = Script(
    _COMMON
    + """
if not epoch then return {'0', '0', '0', 1, {}} end
local answer, from, size = {}, '(' .. ARGV[2] .. '-0', 0
-- A lost log contains no changes.
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
