-- A path has its methods. A body is JSON if it says so: text, forms and what has no type a page may send to another site
-- without asking before.

local READS = {GET = true, HEAD = true, OPTIONS = true}

function envoy_on_request(handle)
  local headers = handle:headers()
  local _, methods = called(headers:get(":method"), headers:get(":path"))
  if methods then
    local names = {}
    for name in pairs(methods) do
      names[#names + 1] = name
    end
    table.sort(names)
    local allow = table.concat(names, ", ")
    handle:respond({[":status"] = "405", allow = allow}, "this path has " .. allow .. " only")
    return
  end
  if READS[headers:get(":method")] then
    return
  end
  local kind = headers:get("content-type")
  if kind then
    local name = kind:lower():match("^%s*([^;,%s]*)%s*;?[^,]*$")
    if name == "application/json" then
      return
    end
  elseif (headers:get("content-length") or "0") == "0" then
    -- Nothing, as far as can be seen: a body need not say how long it is. See piece.lua.
    return
  end
  handle:respond({[":status"] = "415"}, "the body has to be JSON, and to say so: content-type: application/json")
end
