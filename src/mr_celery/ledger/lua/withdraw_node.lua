-- A worker goes offline.
--
-- ARGV: hostname
remove_node(ARGV[2])
