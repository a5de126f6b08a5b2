-- survey
-- Reads what the bridge needs to know before it asks the server for work (see surveying.lua).
--
-- ARGV:    prefix, (unused), then queues
return survey_from(3)
