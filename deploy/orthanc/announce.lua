-- Tells Triggerscope that a film has arrived, so that `triggerscope watch` looks at once instead of at its next turn.
-- Nothing depends on it: a call that is lost costs no film, only time.
--
-- In orthanc.json:  "LuaScripts": ["/etc/orthanc/announce.lua"], "HttpTimeout": 2
-- In Orthanc's environment:
--   TRIGGERSCOPE_HOOK_URL       http://triggerscope.example:8000/v1/hooks/films
--   TRIGGERSCOPE_HOOK_KEY_FILE  a file with the key of `triggerscope keys create --name orthanc --scope films:announce`
--
-- Orthanc stores nothing else while a script runs, so keep HttpTimeout short: it is how long a film takes when
-- Triggerscope's machine is silent. Lua has no HMAC; the key travels as a bearer token, so use https where it leaves
-- the machine, and give the key no other scope.

local FILMS = {
   ['1.2.840.10008.5.1.4.1.1.1'] = true,   -- Computed Radiography Image Storage
   ['1.2.840.10008.5.1.4.1.1.1.1'] = true  -- Digital X-Ray Image Storage - For Presentation
}

function OnStoredInstance(instanceId, tags, metadata, origin)
   local file = FILMS[metadata['SopClassUid']] and io.open(os.getenv('TRIGGERSCOPE_HOOK_KEY_FILE') or '')
   if file then  -- no file, no call: `watch` finds the film at its next turn
      local key = file:read('*l')
      file:close()
      HttpPost(os.getenv('TRIGGERSCOPE_HOOK_URL'), '{}', {
         ['Authorization'] = 'Bearer ' .. key,
         ['Content-Type'] = 'application/json'
      })
   end
end
