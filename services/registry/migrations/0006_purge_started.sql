-- Large models are purged in parts. One of which a part is gone can no longer be undeleted, and is purged to its end even
-- when whoever began it does not come back.
--
-- Safe while the old program runs: a constant default costs no rewrite.
ALTER TABLE models ADD COLUMN purge_started boolean NOT NULL DEFAULT false;
