-- Fields of a JSON body that its message does not have.
--
-- One pass over the text, which reads no more of it than where a key or a value ends. What is no JSON is left to the
-- transcoder, which says so.

-- By the number of a message: its fields, and what is in each: a message or a list of them (its number), a map of them (its
-- number, negative), or what is not looked into (0).
local TYPES = ${TYPES}
-- Deeper than the transcoder goes.
local DEEPEST = 128
local QUOTE, BACKSLASH, COLON, COMMA, OPEN, CLOSE, LIST, LIST_END = 34, 92, 58, 44, 123, 125, 91, 93

local byte, find, sub = string.byte, string.find, string.sub
local UNREADABLE = {}

local function past_space(text, at)
  return find(text, "[^ \t\r\n]", at) or error(UNREADABLE)
end

local function past_string(text, at)
  local from = at + 1
  while true do
    local quote = find(text, '"', from, true) or error(UNREADABLE)
    local first = quote
    while first > from and byte(text, first - 1) == BACKSLASH do first = first - 1 end
    if (quote - first) % 2 == 0 then return quote + 1 end
    from = quote + 1
  end
end

local function past_value(text, at)
  local kind = byte(text, at)
  if kind == QUOTE then return past_string(text, at) end
  if kind ~= OPEN and kind ~= LIST then return find(text, "[,%]} \t\r\n]", at) or error(UNREADABLE) end
  local depth = 0
  repeat
    at = find(text, '["{}%[%]]', at) or error(UNREADABLE)
    local mark = byte(text, at)
    if mark == QUOTE then
      at = past_string(text, at)
    else
      depth = depth + ((mark == OPEN or mark == LIST) and 1 or -1)
      if depth > DEEPEST then error(UNREADABLE) end
      at = at + 1
    end
  until depth == 0
  return at
end

-- A key as it is meant: a field's name has nothing but ASCII in it.
local function plain(key)
  if not find(key, "\\", 1, true) then return key end
  return (key:gsub("\\u00([0-7]%x)", function(code) return string.char(tonumber(code, 16)) end))
end

local past_object

local function past_known(text, at, kind, depth)
  local mark = byte(text, at)
  if kind == 0 or (mark ~= OPEN and mark ~= LIST) then return past_value(text, at) end
  if mark == OPEN then return past_object(text, at, kind, depth) end
  at = past_space(text, at + 1)
  if byte(text, at) == LIST_END then return at + 1 end
  local index = 0
  while true do
    local wrong
    if byte(text, at) == OPEN then
      at, wrong = past_object(text, at, kind, depth)
      if wrong then return nil, "[" .. index .. "]." .. wrong end
    else
      at = past_value(text, at)
    end
    at = past_space(text, at)
    if byte(text, at) == LIST_END then return at + 1 end
    if byte(text, at) ~= COMMA then error(UNREADABLE) end
    at, index = past_space(text, at + 1), index + 1
  end
end

-- Where the object ends; or nil and the path of a field that is not one.
past_object = function(text, at, kind, depth)
  if depth > DEEPEST then return past_value(text, at) end
  local fields = kind > 0 and TYPES[kind]
  at = past_space(text, at + 1)
  while byte(text, at) ~= CLOSE do
    if byte(text, at) ~= QUOTE then error(UNREADABLE) end
    local stop = past_string(text, at)
    local key = plain(sub(text, at + 1, stop - 2))
    at = past_space(text, stop)
    if byte(text, at) ~= COLON then error(UNREADABLE) end
    local inner = fields and fields[key] or not fields and -kind
    if not inner then return nil, key end
    local wrong
    at, wrong = past_known(text, past_space(text, at + 1), inner, depth + 1)
    if wrong then return nil, key .. (byte(wrong) == LIST and "" or ".") .. wrong end
    at = past_space(text, at)
    if byte(text, at) == COMMA then
      at = past_space(text, at + 1)
    elseif byte(text, at) ~= CLOSE then
      error(UNREADABLE)
    end
  end
  return at + 1
end

-- The path of a field that the body has and its message has not; nil for none.
local function unknown(text, kind)
  local first = kind ~= 0 and find(text, "[^ \t\r\n]")
  if not first or byte(text, first) ~= OPEN then return nil end
  local readable, _, wrong = pcall(past_object, text, first, kind, 0)
  return readable and wrong or nil
end

