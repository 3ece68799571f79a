-- Buffers a JSON body in full and rejects unknown fields.

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
  local text = body:getBytes(0, body:length())
  local call = called(headers:get(":method"), headers:get(":path"))
  local wrong = call and unknown(text, call[3])
  if wrong then
    local field = (call[4] .. wrong):gsub("[^%w%._%-%[%]@$]", "?")
    if #field > 200 then field = field:sub(1, 200) .. "..." end
    handle:streamInfo():dynamicMetadata():set("modelyard.json", "field", field)
    handle:respond({[":status"] = "422"}, "there is no such field")
    return
  end
  body:setBytes(text)
end
