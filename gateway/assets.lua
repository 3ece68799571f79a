-- Between clients and the gateway, on the routes /assets/ and /static/: allowed request headers, the compressed variants
-- that the client accepts, and allowed response headers. s3.lua is the other half.

-- Allowlist: S3 also acts on other headers (Authorization, x-amz-…).
local ASKED = {
  ["authorization"] = true,  -- for the gateway itself: it goes no further
  ["host"] = true,
  ["if-match"] = true,
  ["if-modified-since"] = true,
  ["if-none-match"] = true,
  ["if-unmodified-since"] = true,
  ["range"] = true,
}

-- Allowlist: S3-compatible servers add headers of their own (x-amz-…, seaweed-…).
local ANSWERED = {
  ["accept-ranges"] = true,
  ["allow"] = true,
  ["cache-control"] = true,
  ["content-disposition"] = true,
  ["content-encoding"] = true,
  ["content-language"] = true,
  ["content-length"] = true,
  ["content-range"] = true,
  ["content-security-policy"] = true,
  ["content-type"] = true,
  ["date"] = true,
  ["docker-content-digest"] = true,
  ["etag"] = true,
  ["expires"] = true,
  ["last-modified"] = true,
  ["repr-digest"] = true,
  ["strict-transport-security"] = true,
  ["vary"] = true,
  ["www-authenticate"] = true,
  ["x-content-type-options"] = true,
  ["x-request-id"] = true,
}

-- Cache-Control of immutable bytes (RFC 8246), also where S3 does not send it, as with 304.
local FOREVER = "public, max-age=31536000, immutable"

-- Headers that are removed from errors.
local OF_BYTES = {
  "accept-ranges", "content-disposition", "content-encoding", "docker-content-digest", "etag", "expires", "last-modified",
  "repr-digest",
}

-- google.rpc.Status for client errors. Other errors of S3 are not shown to clients.
local ERRORS = {
  ["404"] = '{"code":5,"message":"there is nothing at this path","details":[]}',
  ["405"] = '{"code":12,"message":"only GET and HEAD are possible here","details":[]}',
  ["412"] = '{"code":9,"message":"the condition of the request does not hold","details":[]}',
  ["416"] = '{"code":11,"message":"the range begins after the last byte","details":[]}',
}
-- The gateway's own errors for missing or insufficient tokens. 401 and 403 of S3 are not client errors; they have no details.
local REFUSALS = {
  ["401"] = '{"code":16,"message":"this needs a token with the scope assets.read: authorization: Bearer …","details":[]}',
  ["403"] = '{"code":7,"message":"this needs the scope assets.read","details":[]}',
}
-- Envoy's own answers to requests with the content type of gRPC have the status 200, and a cache before the gateway would
-- take them for the asset. These are what it makes of 404 and 405; S3 never has them.
local OF_GRPC = {["12"] = "404", ["2"] = "405", ["16"] = "401", ["7"] = "403"}

local UNAVAILABLE = '{"code":14,"message":"the store cannot be read at the moment","details":[]}'

local function keep_only(headers, wanted)
  local others = {}
  for name in pairs(headers) do
    if name:sub(1, 1) ~= ":" and not wanted[name] then
      others[#others + 1] = name
    end
  end
  for _, name in ipairs(others) do
    headers:remove(name)
  end
end

-- The variants to look for, the preferred one first, by RFC 9110, section 12.5.3. A "*" alone gets the original.
local function variants(accept_encoding)
  local quality = {}
  for coding in accept_encoding:lower():gmatch("[^,]+") do
    local name = coding:match("^%s*([^%s;]+)")
    if name then
      local q = coding:match(";%s*q%s*=%s*([^%s;]*)")
      -- Ignore a malformed entry.
      quality[name] = q and (tonumber(q) or 0) or 1
    end
  end
  local found = {}
  for _, name in ipairs({"zstd", "gzip"}) do
    local q = quality[name] or 0
    if q > 0 and q >= (quality["identity"] or 0) then
      found[#found + 1] = name
    end
  end
  return table.concat(found, " ")
end

-- Not every S3 heeds If-Range, by which a client goes on with a file that it has a part of: without it the parts of two
-- files, or of a file and its variant, would be put together. If-Match says the same to all of them, and s3.lua asks for
-- the whole when it does not hold. RFC 9110, section 13.1.5: only strong tags; and a range may always be passed over.
local function replace_if_range(headers)
  local tag = headers:get("if-range")
  if not tag or not headers:get("range") then
    return
  end
  if tag:match('^"[^"]*"$') and not headers:get("if-match") then
    headers:replace("if-match", tag)
  else
    headers:remove("range")
  end
end

-- The tag of an asset is its digest, that of a variant says of which encoding it is: both are known without S3.
local function tag_of(digest, coding)
  return '"' .. digest .. (coding == "identity" and "" or "-" .. coding) .. '"'
end

-- Of which encodings the tags in *list* are. RFC 9110, section 13.1: If-Match compares strongly, If-None-Match weakly.
local function named(list, digest, weakly)
  local found = {}
  for mark, tag in list:gmatch('(W?/?)("[^"]*")') do
    for _, coding in ipairs({"identity", "zstd", "gzip"}) do
      if (weakly or mark == "") and tag == tag_of(digest, coding) then
        found[coding] = true
      end
    end
  end
  return found
end

local function is_any(list)
  return list:match("^%s*%*%s*$") ~= nil
end

-- If-Match: only what has one of the tags. Returns the variants that are left, and whether the original is.
local function keep_matching(headers, digest, codings)
  local list = headers:get("if-match")
  if not list then
    return codings, true
  end
  headers:remove("if-match")
  -- RFC 9110, section 13.2.2: it takes the place of the other one.
  headers:remove("if-unmodified-since")
  if is_any(list) then
    return codings, true
  end
  local tags, left = named(list, digest, false), {}
  for coding in codings:gmatch("%S+") do
    left[#left + 1] = tags[coding] and coding or nil
  end
  return table.concat(left, " "), tags["identity"] or false
end

-- If-None-Match: which encoding of it the client has and would be given. S3 is asked about "*" alone.
local function held(headers, digest, codings, original)
  local list = headers:get("if-none-match")
  if not list then
    return nil
  end
  headers:remove("if-modified-since")
  if is_any(list) then
    return nil
  end
  headers:remove("if-none-match")
  local tags = named(list, digest, true)
  for coding in codings:gmatch("%S+") do
    if tags[coding] then
      return coding
    end
  end
  return original and tags["identity"] and "identity" or nil
end

-- What a browser is to save it as: ?download=NAME, percent-encoded (RFC 8187). No separators, no control characters.
local function download_name(path)
  local name = path:match("[?&]download=([^&#]*)")
  if not name or #name == 0 or #name > 600 or name:find("[^%w%%._~!$+^`|-]") then
    return nil
  end
  local plain = name:gsub("%%(%x%x)", "")
  if plain:find("%%") then
    return nil
  end
  for code in name:gmatch("%%(%x%x)") do
    local byte = tonumber(code, 16)
    if byte < 32 or byte == 127 or byte == 47 or byte == 92 then
      return nil
    end
  end
  return name
end

local function of_asset(headers, metadata, digest, codings)
  local name = download_name(headers:get(":path"))
  if name then
    metadata:set("assets", "download", name)
  end
  metadata:set("assets", "digest", digest)
  if headers:get("if-range") and headers:get("range") and headers:get("if-range") ~= tag_of(digest, "identity") then
    headers:remove("range")
  end
  local original
  codings, original = keep_matching(headers, digest, codings)
  local coding = held(headers, digest, codings, original)
  if not original and codings == "" then
    metadata:set("assets", "outcome", "412")
  elseif coding then
    metadata:set("assets", "coding", coding)
    metadata:set("assets", "outcome", "304")
  end
  metadata:set("assets", "original", original and "yes" or "no")
  return codings
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local metadata = handle:streamInfo():dynamicMetadata()
  local path = headers:get(":path"):match("^[^?#]*")
  local digest = path:match("^/assets/(%x+)$")
  metadata:set("assets", "method", headers:get(":method"))
  metadata:set("assets", "key", path)
  local request_id = headers:get("x-request-id")
  if request_id then
    -- For the access log.
    metadata:set("assets", "request_id", request_id)
  end
  local authorization = headers:get("authorization")
  -- Clients of OCI registries send a token in any case: this one stands for nobody (services/doors/service/oci/tokens.py).
  if authorization and authorization ~= "Bearer anonymous" then
    -- For the decision whether the caller may have the bytes.
    metadata:set("assets", "authorization", authorization)
  end
  -- A range of the original is not a range of a variant.
  local codings = headers:get("range") and "" or variants(headers:get("accept-encoding") or "")
  local whole_if_changed = false
  if digest and #digest == 64 then
    codings = of_asset(headers, metadata, digest, codings)
  else
    replace_if_range(headers)
    whole_if_changed = headers:get("if-range") and headers:get("range")
  end
  metadata:set("assets", "whole_if_changed", whole_if_changed and "yes" or "no")
  metadata:set("assets", "variants", codings)
  keep_only(headers, ASKED)
end

-- Set the headers that describe an asset's bytes, whichever response of S3 they come from: of an earlier release, or 304.
local function describe(handle, headers, status, assets)
  local digest = assets["digest"]
  local variant = assets["variant"]
  local coding = assets["coding"] or headers:get("content-encoding") or (variant and variant ~= "" and variant) or "identity"
  headers:replace("etag", tag_of(digest, coding))
  if not headers:get("cache-control") then
    headers:replace("cache-control", FOREVER)
  end
  if status == "304" then
    headers:remove("content-type")
    headers:remove("content-length")
    return
  end
  if coding == "identity" then
    -- RFC 9530.
    local bytes = digest:gsub("%x%x", function(code) return string.char(tonumber(code, 16)) end)
    -- Where clients of OCI registries are sent for a blob: distribution-spec, "Pulling blobs".
    headers:replace("docker-content-digest", "sha256:" .. digest)
    headers:replace("repr-digest", "sha-256=:" .. handle:base64Escape(bytes) .. ":")
  end
  if assets["download"] then
    headers:replace("content-disposition", "attachment; filename*=UTF-8''" .. assets["download"])
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  local grpc_status = headers:get("grpc-status")
  -- The gateway's refusals have these, and S3's answers never do.
  local refused = headers:get("grpc-status-details-bin")
  if grpc_status then
    status = OF_GRPC[grpc_status] or "503"
    headers:replace(":status", status)
  end
  local assets = handle:streamInfo():dynamicMetadata():get("assets")
  keep_only(headers, ANSWERED)
  if assets["request_id"] then
    headers:replace("x-request-id", assets["request_id"])
  end
  if status == "404" and assets["original"] == "no" then
    -- None of the variants that If-Match asks for is there, and the original has another tag.
    status = "412"
    headers:replace(":status", status)
  end
  if headers:get("content-encoding") then
    -- Parts are parts of the original, which has other bytes than this.
    headers:remove("accept-ranges")
  end
  if status:sub(1, 1) == "2" or status == "304" then
    if assets["digest"] then
      describe(handle, headers, status, assets)
    end
    local kept = headers:get("cache-control")
    if kept and (handle:metadata():get("private") or assets["authorization"]) then
      -- Shared caches must not store it (RFC 9111, section 5.2.2.7).
      headers:replace("cache-control", (kept:gsub("public", "private")))
    end
    return
  end
  local message = ERRORS[status] or refused and REFUSALS[status]
  if not message then
    message = UNAVAILABLE
    headers:replace(":status", "503")
  end
  for _, name in ipairs(OF_BYTES) do
    headers:remove(name)
  end
  -- A missing object may be uploaded later.
  headers:replace("cache-control", "no-store")
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(#message))
  if assets["method"] == "HEAD" then
    return
  end
  -- Also where there was none.
  local body = handle:body(true)
  local code = body:getBytes(0, body:length()):match("<Code>(%w+)</Code>")
  if code and message == UNAVAILABLE then
    handle:logWarn("S3 answered " .. status .. " " .. code)
  end
  body:setBytes(message)
end
