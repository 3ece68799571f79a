-- How long the JSON of an entry is: pages are cut by it, and to ask the images themselves would read all of them.
-- Entries from before have none, and the one index-free column that is added costs no rewrite.
ALTER TABLE audit ADD COLUMN octets integer;
