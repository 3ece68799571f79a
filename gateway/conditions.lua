-- On the routes of assets, after a token was looked at: the answers to conditions that need no S3. assets.lua has found out.

function envoy_on_request(handle)
  local assets = handle:streamInfo():dynamicMetadata():get("assets")
  if assets and assets["outcome"] then
    handle:respond({[":status"] = assets["outcome"]}, "")
  end
end
