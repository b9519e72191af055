-- Pushes every received CR and DX image to Triggerscope by C-STORE. `triggerscope watch` needs no script and loses
-- nothing while the service is down, so prefer it; use this one where Orthanc may not be polled.
--
-- In orthanc.json:  "LuaScripts": ["/etc/orthanc/forward.lua"],
--                   "DicomModalities": {"triggerscope": ["TRIGGERSCOPE", "triggerscope.example", 11112]}
--
-- The job goes through the REST interface: unlike SendToModality, one that fails stays in /jobs and can be resubmitted.

local FILMS = {
   ['1.2.840.10008.5.1.4.1.1.1'] = true,   -- Computed Radiography Image Storage
   ['1.2.840.10008.5.1.4.1.1.1.1'] = true  -- Digital X-Ray Image Storage - For Presentation
}

function OnStoredInstance(instanceId, tags, metadata, origin)
   if FILMS[metadata['SopClassUid']] then
      RestApiPost('/modalities/triggerscope/store', DumpJson({
         Resources = { instanceId },
         Synchronous = false,
         Permissive = false
      }))
   end
end
