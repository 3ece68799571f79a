-- Requests with an Origin header, so from scripts of web pages: a write needs the same origin or an allowed one.

local ALLOWED = ${ORIGINS}
local READS = {GET = true, HEAD = true, OPTIONS = true}

function envoy_on_request(handle)
  local headers = handle:headers()
  if READS[headers:get(":method")] then
    return
  end
  local origin = (headers:get("origin") or ""):lower()
  -- The same host and port. The scheme may have been another one before a proxy in front.
  local own = origin:match("^https?://(.+)$")
  if ALLOWED[origin] or own and own == (headers:get(":authority") or ""):lower() then
    return
  end
  -- By this the refusal is known where its words are; see browsers.py.
  handle:streamInfo():dynamicMetadata():set("browsers", "foreign", true)
  handle:respond({[":status"] = "403"}, "")
end
