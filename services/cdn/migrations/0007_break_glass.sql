-- Writes that only the scope `admin` allowed (docs/adr/0048). A constant default costs no rewrite.
SET LOCAL lock_timeout = '5s';
ALTER TABLE audit ADD COLUMN break_glass boolean NOT NULL DEFAULT false;
