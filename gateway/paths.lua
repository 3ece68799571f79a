-- The JSON paths of the contracts: method, path, what the body is (see bodies.lua), and what its fields' names begin with.
local PATHS = ${PATHS}

-- What is called by a method at a path; or the methods that the path has, nil for none.
local function called(method, path)
  path = path:match("^[^?]*")
  local others
  for _, each in ipairs(PATHS) do
    if path:find(each[2]) then
      if each[1] == method then return each end
      others = others or {}
      others[each[1]] = true
    end
  end
  return nil, others
end

