-- Between the gateway and S3, before the signature: the key of each attempt. The first attempts are for the compressed
-- variants that the client takes (see assets.lua), and the last ones for the original.

function envoy_on_request(handle)
  -- The metadata of a request outlives its attempts.
  local metadata = handle:streamInfo():dynamicMetadata()
  local assets = metadata:get("assets")
  local variant, others = assets["variants"]:match("^(%S+)%s*(.*)$")
  metadata:set("assets", "variant", variant or "")
  metadata:set("assets", "variants", others or "")
  local prefix = variant and "/" .. variant or ""
  handle:headers():replace(":path", handle:metadata():get("bucket") .. prefix .. assets["key"])
end

function envoy_on_response(handle)
  local headers = handle:headers()
  -- Only the route's retry policy reads it, and only we may say it.
  headers:remove("x-variant-missing")
  if headers:get(":status") == "404" and handle:streamInfo():dynamicMetadata():get("assets")["variant"] ~= "" then
    headers:add("x-variant-missing", "true")
    -- Having read the answer to its end, the next attempt finds the connection still open.
    handle:body()
  end
end
