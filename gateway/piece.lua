-- A body of JSON in one piece.

function envoy_on_request(handle)
  local body = handle:body()
  if not body or body:length() == 0 then
    return
  end
  local headers = handle:headers()
  if not headers:get("content-type") and headers:get(":method") ~= "GET" then
    handle:respond({[":status"] = "415"}, "the body has to be JSON, and to say so: content-type: application/json")
    return
  end
  body:setBytes(body:getBytes(0, body:length()))
end
