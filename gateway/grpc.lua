-- Validates gRPC requests before they are forwarded. All clients share the connections to services, and grpcio keeps an
-- invalid header in the connection's HPACK table: from then on it also rejects requests of other clients that refer to
-- the entry. So invalid headers are rejected here.
--
-- The last filter before the router: every call has its gRPC form here, and responses are converted to the protocol of
-- the client on their way back.
--
-- Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md ("Requests").

local INVALID_ARGUMENT, UNIMPLEMENTED = "3", "12"
local ENCODINGS = {identity = true, gzip = true, deflate = true}

-- Of the names that gRPC keeps for itself, those that a client has a use for; a value that is none, and what a good one
-- would be. All others are removed.
local OURS = {
  ["grpc-accept-encoding"] = function() return nil end,
  ["grpc-message-type"] = function() return nil end,
  ["grpc-encoding"] = function(value)
    if not ENCODINGS[value] then return "has to be identity, gzip or deflate", UNIMPLEMENTED end
  end,
  ["grpc-timeout"] = function() return nil end,
  ["grpc-previous-rpc-attempts"] = function(value)
    if #value > 9 or not value:find("^%d+$") then return "has to be a number" end
  end,
}

-- Base64 whose padding may be missing; the bits that are left over are 0.
local function is_base64(value)
  local digits = value:match("^([A-Za-z0-9+/]*)=?=?$")
  if not digits then return false end
  local over = #digits % 4
  return over == 0 or (over == 2 and digits:find("[AQgw]$")) or (over == 3 and digits:find("[AEIMQUYcgkosw048]$"))
end

local function parts(value)
  local each = value:gmatch("[^,]+")
  return function()
    local part = each()
    return part and part:match("^%s*(.-)%s*$")
  end
end

-- Used between servers and load balancers, never by clients.
local OTHERS = {["lb-cost-bin"] = true, ["lb-token"] = true}

local function refuse(handle, status, message)
  handle:respond({
    [":status"] = "200",
    ["content-type"] = "application/grpc",
    ["grpc-status"] = status,
    ["grpc-message"] = message,
    ["grpc-accept-encoding"] = "identity, deflate, gzip",
  }, nil)
end

-- The error of a header with the status of the response; or that it must be removed.
local function look(name, value)
  if OTHERS[name] then return nil, nil, true end
  if name:sub(-4) == "-bin" then
    for part in parts(value) do
      if not is_base64(part) then return "has to be base64" end
    end
  elseif name:sub(1, 5) == "grpc-" then
    local check = OURS[name]
    if not check then return nil, nil, true end
    return check(value)
  elseif value:find("[^\32-\126]") then
    -- HTTP allows it, gRPC does not.
    return nil, nil, true
  end
end

-- Several values in one header, as several headers without blanks: grpcio takes neither.
local function separate(headers, name)
  local found = {}
  for other, value in pairs(headers) do
    if other == name then
      for part in parts(value) do
        found[#found + 1] = part
      end
    end
  end
  headers:remove(name)
  for _, part in ipairs(found) do
    headers:add(name, part)
  end
end

local UNITS = {H = 3600, M = 60, S = 1, m = 1e-3, u = 1e-6, n = 1e-9}

local function seconds(timeout)
  local digits, unit = timeout:match("^(%d+)([HMSmun])$")
  return digits and #digits <= 8 and tonumber(digits) * UNITS[unit]
end

-- The caller's deadline, as far as a call of its kind may take that long. Without one the service's own default counts,
-- so that the service hears of none.
local function keep_deadline(headers, given)
  local most = headers:get("grpc-timeout")
  headers:remove("grpc-timeout")
  if given == "-" then return true end
  local wanted = seconds(given)
  if not wanted then return false end
  local bound = most and seconds(most) - ${GRACE}
  headers:add("grpc-timeout", bound and bound < wanted and math.floor(bound) .. "S" or given)
  return true
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local deadline = headers:get("x-modelyard-timeout") or "-"
  headers:remove("x-modelyard-timeout")
  local path = headers:get(":path")
  if path:sub(1, 11) ~= "/modelyard." and path:sub(1, 6) ~= "/grpc." then return end
  local kind = headers:get("content-type") or ""
  if headers:get(":method") ~= "POST" then
    if kind:sub(1, 16) == "application/grpc" then return refuse(handle, UNIMPLEMENTED, "gRPC calls are POST requests") end
    handle:respond({[":status"] = "405", ["allow"] = "POST", ["content-type"] = "text/plain"}, "gRPC calls are POST requests.\n")
    return
  end
  if kind ~= "application/grpc" then
    local rest = kind:match("^application/grpc([+;].*)$")
    if not rest then
      handle:respond(
        {[":status"] = "415", ["accept"] = "application/grpc", ["content-type"] = "text/plain"},
        "The content type of a gRPC call is application/grpc.\n"
      )
      return
    end
    if rest:sub(1, 1) == "+" and not rest:find("^%+proto%f[;%z]") then
      return refuse(handle, UNIMPLEMENTED, "content-type: messages are application/grpc+proto here")
    end
  end
  if not keep_deadline(headers, deadline) then
    return refuse(handle, INVALID_ARGUMENT, "the header grpc-timeout has to be up to eight digits and a unit, such as 100m")
  end
  local away, apart = {}, {}
  for name, value in pairs(headers) do
    local wrong, status, gone = look(name, value)
    if wrong then return refuse(handle, status or INVALID_ARGUMENT, "the header " .. name .. " " .. wrong) end
    if gone then
      away[name] = true
    elseif name:sub(-4) == "-bin" and value:find("[,%s]") then
      apart[name] = true
    end
  end
  for name in pairs(away) do
    headers:remove(name)
  end
  for name in pairs(apart) do
    separate(headers, name)
  end
end
