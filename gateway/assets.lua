-- Between clients and the gateway, on the routes /assets/ and /static/: what a client may ask of S3, which compressed
-- variants it takes, and what of S3's answer it may see. s3.lua is the other half.

-- S3 acts upon more headers than these (Authorization, x-amz-…), so these pass and no others.
local ASKED = {
  ["authorization"] = true,  -- for the gateway itself: it goes no further
  ["host"] = true,
  ["if-match"] = true,
  ["if-modified-since"] = true,
  ["if-none-match"] = true,
  ["if-unmodified-since"] = true,
  ["range"] = true,
}

-- S3-compatible servers have headers of their own (x-amz-…, seaweed-…), so these pass and no others.
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
  ["etag"] = true,
  ["expires"] = true,
  ["last-modified"] = true,
  ["vary"] = true,
  ["www-authenticate"] = true,
  ["x-content-type-options"] = true,
}

-- What an error does not have.
local OF_BYTES = {"accept-ranges", "content-disposition", "content-encoding", "etag", "expires", "last-modified"}

-- google.rpc.Status for what is the client's affair. Whatever else S3 says is a matter between it and the gateway.
local ERRORS = {
  ["404"] = '{"code":5,"message":"there is nothing at this path","details":[]}',
  ["405"] = '{"code":12,"message":"only GET and HEAD are possible here","details":[]}',
  ["412"] = '{"code":9,"message":"the condition of the request does not hold","details":[]}',
  ["416"] = '{"code":11,"message":"the range begins after the last byte","details":[]}',
}
-- Of the gateway, when it wants a token. S3's own 401 and 403 are no client's affair; they have no details.
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
      -- What cannot be read is not an invitation.
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

function envoy_on_request(handle)
  local headers = handle:headers()
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("assets", "method", headers:get(":method"))
  metadata:set("assets", "key", headers:get(":path"):match("^[^?#]*"))
  local request_id = headers:get("x-request-id")
  if request_id then
    -- For the access log.
    metadata:set("assets", "request_id", request_id)
  end
  replace_if_range(headers)
  metadata:set("assets", "whole_if_changed", headers:get("if-range") and headers:get("range") and "yes" or "no")
  -- A part of the original is not a part of a variant.
  metadata:set("assets", "variants", headers:get("range") and "" or variants(headers:get("accept-encoding") or ""))
  keep_only(headers, ASKED)
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
  keep_only(headers, ANSWERED)
  if headers:get("content-encoding") then
    -- Parts are parts of the original, which has other bytes than this.
    headers:remove("accept-ranges")
  end
  if status:sub(1, 1) == "2" or status == "304" then
    local kept = headers:get("cache-control")
    if kept and handle:metadata():get("private") then
      -- Not for whoever asks the same proxy next (RFC 9111, section 5.2.2.7).
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
  -- What is missing may come.
  headers:replace("cache-control", "no-store")
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(#message))
  if handle:streamInfo():dynamicMetadata():get("assets")["method"] == "HEAD" then
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
