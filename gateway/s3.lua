-- Between the gateway and S3, before the signature: the object of each attempt. The first attempts are for the compressed
-- variants that the client accepts (see assets.lua), the last ones for the original.

function envoy_on_request(handle)
  local headers = handle:headers()
  -- The metadata of a request outlives its attempts.
  local metadata = handle:streamInfo():dynamicMetadata()
  local assets = metadata:get("assets")
  local variant, others = assets["variants"]:match("^(%S+)%s*(.*)$")
  metadata:set("assets", "variant", variant or "")
  metadata:set("assets", "variants", others or "")
  local prefix = variant and "/" .. variant or ""
  headers:replace(":path", handle:metadata():get("bucket") .. prefix .. assets["key"])
  if assets["changed"] then
    headers:remove("if-match")
    headers:remove("range")
  end
end

-- Whether there is another variant to try.
local function next_attempt(metadata, status)
  local assets = metadata:get("assets")
  if status == "412" and assets["whole_if_changed"] == "yes" and not assets["changed"] then
    metadata:set("assets", "changed", "yes")
    return true
  end
  if assets["variant"] == "" then
    return false
  end
  if assets["variants"] == "" and assets["original"] == "no" then
    return false
  end
  -- 412: the tag may be that of another encoding.
  return status == "404" or status == "412"
end

function envoy_on_response(handle)
  local headers = handle:headers()
  -- The route's retry policy reads it: a header of S3 must not set it.
  headers:remove("x-next-attempt")
  -- The gateway says these of itself, and passes them on.
  headers:remove("repr-digest")
  headers:remove("strict-transport-security")
  if next_attempt(handle:streamInfo():dynamicMetadata(), headers:get(":status")) then
    headers:add("x-next-attempt", "true")
    -- Having read the answer to its end, the next attempt finds the connection still open.
    handle:body()
  end
end
