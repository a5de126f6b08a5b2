-- Reads what a bridge needs before it polls the inbox (see surveying.lua).
--
-- ARGV:    prefix, (unused), then queues
return survey_from(3)
