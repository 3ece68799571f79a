-- The issuer's keys, from a file that may change. Envoy watches files of certificates, but not this kind of file: it fetches
-- keys that it thinks are far away again and again, so they are served to it here, at an address that only it has.

function envoy_on_request(handle)
  local file = io.open(${FILE}, "rb")
  local keys = file and file:read("*a")
  if file then
    file:close()
  end
  -- Envoy keeps its current keys when the file is missing.
  handle:respond({[":status"] = keys and "200" or "503"}, keys or "")
end
