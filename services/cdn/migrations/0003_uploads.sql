-- Whose uploads are, how long their writers keep them, and the content types of static files.

-- The subject of the token that an upload was started with; empty for those that were started without one. The unique index
-- uploads_by_content keys uploads by (sha256, owner, private), and programs of the release before name it: so that each
-- subject has uploads of its own, `owner` is followed by a line feed and the subject where there is one.
ALTER TABLE uploads ADD COLUMN subject text NOT NULL DEFAULT '';
-- Whom the bounds are counted for: a subject, or the address of a caller without one.
ALTER TABLE uploads ADD COLUMN client text NOT NULL DEFAULT '';
-- Until when nobody takes over from the writer: it says so again and again while its bytes come.
ALTER TABLE uploads ADD COLUMN writing_until timestamptz;
CREATE INDEX uploads_by_client ON uploads (client);
CREATE INDEX uploads_with_bytes ON uploads (id) WHERE multipart <> '';

-- As the client said it; empty means that of the asset.
ALTER TABLE static_files ADD COLUMN content_type text NOT NULL DEFAULT '';

-- Private texts have no compressed variants: nobody could be served them. The sweep takes away those that were made.
UPDATE assets SET encodings = '{}' WHERE private AND encodings <> '{}';
