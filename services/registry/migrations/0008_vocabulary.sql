-- outside a transaction
--
-- How texts become words, and the vocabulary that typos are mended with (docs/adr/0034).
--
-- Safe while the old program runs: it goes on writing to `words`, which nobody reads any more, and triggers teach the
-- vocabulary whoever writes. Each statement may be run again.

-- Text for comparisons: composed and decomposed forms of a character are the same. Most text is ASCII, which has one
-- form, and is told by its length.
CREATE OR REPLACE FUNCTION nfc(content text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(content) = length(content) THEN content ELSE normalize(content, NFC) END
$$;

-- Words apart, in lower case. Full-width letters and half-width kana are the usual ones (NFKC), and the punctuation of
-- other scripts separates, too: in a database of the locale C it would count as letters.
CREATE OR REPLACE FUNCTION separated(content text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT lower(translate(regexp_replace(normalize(content, NFKC),
                                          '[\u00A0-\u00A9\u00AB-\u00B1\u00B4\u00B6-\u00B8\u00BB\u00BF\u2000-\u206F\u3000-\u3004\u3008-\u3020\u3030\u30FB]+',
                                          ' ', 'g'),
                           '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~', repeat(' ', 32)) COLLATE pg_c_utf8)
$$;

-- The parts of a separated text, in order: what is written without spaces between words (Chinese, Japanese, Thai, Lao,
-- Burmese, Khmer) as its characters, each with its marks; the rest as it is.
CREATE OR REPLACE FUNCTION text_parts(content text) RETURNS TABLE (place bigint, rest text, characters text[])
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT part.place, part.found[2],
           CASE WHEN part.found[1] IS NOT NULL THEN ARRAY(
               SELECT cluster[1]
                 FROM regexp_matches(part.found[1],
                                     '.[\u0E31\u0E34-\u0E3A\u0E47-\u0E4E\u0EB1\u0EB4-\u0EBC\u0EC8-\u0ECE\u102B-\u103E\u1056-\u1059\u105E-\u1060\u1062-\u1064\u1067-\u106D\u1071-\u1074\u1082-\u108D\u108F\u109A-\u109D\u17B4-\u17D3\u17DD\u3099\u309A]*',
                                     'g') WITH ORDINALITY AS each (cluster, number)
                ORDER BY number) END
      FROM regexp_matches(content,
                          '([\u0E01-\u0E3A\u0E40-\u0E4E\u0E81-\u0EBD\u0EC0-\u0ECE\u0EDC-\u0EDF\u1000-\u103F\u1050-\u108F\u109A-\u109F\u1780-\u17D3\u17DC\u17DD\u2E80-\u2FDF\u3005-\u3007\u3021-\u3029\u3041-\u309F\u30A1-\u30FA\u30FC-\u30FF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U000323AF]+)|([^\u0E01-\u0E3A\u0E40-\u0E4E\u0E81-\u0EBD\u0EC0-\u0ECE\u0EDC-\u0EDF\u1000-\u103F\u1050-\u108F\u109A-\u109F\u1780-\u17D3\u17DC\u17DD\u2E80-\u2FDF\u3005-\u3007\u3021-\u3029\u3041-\u309F\u30A1-\u30FA\u30FC-\u30FF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U000323AF]+)',
                          'g') WITH ORDINALITY AS part (found, place)
$$;

-- Characters as overlapping pairs, which is what of them is indexed: any two that stand together are found. The last
-- one goes by itself, too, so that every character begins something in the index.
CREATE OR REPLACE FUNCTION character_pairs(characters text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT string_agg(one || coalesce(next, ''), ' ' ORDER BY place)
      FROM (SELECT one, lead(one) OVER (ORDER BY place) AS next, place
              FROM unnest(characters) WITH ORDINALITY AS each (one, place)) AS pair
$$;

CREATE OR REPLACE FUNCTION plain_words(content text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(content) = length(content)
                THEN lower(translate(content, '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~', repeat(' ', 32)) COLLATE pg_c_utf8)
                ELSE (SELECT coalesce(string_agg(coalesce(rest, ' ' || character_pairs(characters) || ' '), ''
                                                 ORDER BY place), '')
                        FROM text_parts(separated(content))) END
$$;

-- The words of a card: its prose, stemmed. A tsvector holds a megabyte. Of a text whose characters take several bytes
-- each, and whose words are pairs of them, half as many fit.
CREATE OR REPLACE FUNCTION words_of_card(content text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT setweight(to_tsvector('pg_catalog.english', plain_words(
               left(content, CASE WHEN octet_length(left(content, 65536)) > 98304 THEN 32768 ELSE 65536 END))), 'D')
$$;

-- The query for all words of a text in a description: each as it is or stemmed, characters without spaces side by side.
-- Words that say nothing ("the") are in no description's index, and are left out.
CREATE OR REPLACE FUNCTION description_query(content text) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    WITH part AS (
        SELECT characters, unnest(CASE WHEN rest IS NULL THEN '{""}' ELSE string_to_array(rest, ' ') END) AS word
          FROM text_parts(separated(content))
    ), piece AS (
        SELECT CASE WHEN characters IS NULL
                    THEN array_to_string(ARRAY(SELECT quote_literal(lexeme) || ':C' FROM unnest(lexemes_of(word)) AS lexeme
                                                WHERE to_tsvector('pg_catalog.english', word) <> ''), '|')
                    WHEN cardinality(characters) = 1 THEN quote_literal(characters[1]) || ':*C'
                    ELSE (SELECT string_agg(quote_literal(characters[n] || characters[n + 1]) || ':C', '<->' ORDER BY n)
                            FROM generate_series(1, cardinality(characters) - 1) AS n) END AS text
          FROM part
    )
    SELECT coalesce(string_agg('(' || text || ')', '&'), '')::tsquery FROM piece WHERE text <> ''
$$;

-- The words of a text that a person may mistype: those with a letter, in scripts with spaces. What machines write
-- (digests, ids, timestamps) is left out: there is no end to it, and nobody types it from memory.
CREATE OR REPLACE FUNCTION spelt_words(content text) RETURNS SETOF text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT word
      FROM unnest(tsvector_to_array(to_tsvector('pg_catalog.simple',
               CASE WHEN octet_length(content) = length(content) THEN plain_words(content)
                    ELSE regexp_replace(separated(content), '[\u0E01-\u0E3A\u0E40-\u0E4E\u0E81-\u0EBD\u0EC0-\u0ECE\u0EDC-\u0EDF\u1000-\u103F\u1050-\u108F\u109A-\u109F\u1780-\u17D3\u17DC\u17DD\u2E80-\u2FDF\u3005-\u3007\u3021-\u3029\u3041-\u309F\u30A1-\u30FA\u30FC-\u30FF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U000323AF]+',
                                        ' ', 'g') END))) AS word
     WHERE length(word) <= 32 AND word ~ '[^0-9]'
       AND NOT (word ~ '[0-9]' AND (length(word) > 20 OR word ~ '^[0-9a-f]{8,}$' OR word ~ '[0-9]{7}|([0-9]+[^0-9]+){3}'))
$$;

-- The words of a namespace's models. A word of which it is doubted that any model still has it, goes when it is doubted
-- for a minute and no model has it: whoever writes it meanwhile takes the doubt back.
CREATE TABLE IF NOT EXISTS vocabulary (
    namespace_id text COLLATE "C" NOT NULL,
    word         text COLLATE "C" NOT NULL,
    doubt_time   timestamptz,
    PRIMARY KEY (namespace_id, word)
);

-- A word's beginning, whole and without any one or two of its letters, as numbers. Two words that are at most two
-- letters apart have one in common: "symmetric deletion" (W. Garbe, SymSpell, 2012).
CREATE OR REPLACE FUNCTION spellings(namespace_id text, word text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    start text := left(word, 7);
    less text;
    found integer[] := ARRAY[hashtext(namespace_id || '/' || start)];
BEGIN
    FOR one IN 1 .. length(start) LOOP
        less := overlay(start PLACING '' FROM one FOR 1);
        found := found || hashtext(namespace_id || '/' || less);
        FOR other IN one .. length(less) LOOP
            found := found || hashtext(namespace_id || '/' || overlay(less PLACING '' FROM other FOR 1));
        END LOOP;
    END LOOP;
    RETURN found;
END $$;

-- A short pending list: every look-up reads all of it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS vocabulary_by_spelling ON vocabulary
 USING gin (spellings(namespace_id, word)) WITH (gin_pending_list_limit = 256);

-- Names that begin with something, in any case, in their order.
CREATE INDEX CONCURRENTLY IF NOT EXISTS models_by_beginning ON models (namespace_id, lower(model_id), model_id)
 WHERE delete_time IS NULL;

-- The words are put in their order: nobody who puts some in waits for another who waits for him.
CREATE OR REPLACE FUNCTION learn_words(namespace text, content text) RETURNS void LANGUAGE sql STRICT AS $$
    INSERT INTO vocabulary (namespace_id, word)
    SELECT namespace, fresh.word
      FROM (SELECT DISTINCT word FROM spelt_words(content) AS word) AS fresh
     WHERE NOT EXISTS (SELECT FROM vocabulary AS known
                        WHERE known.namespace_id = namespace AND known.word = fresh.word AND known.doubt_time IS NULL)
     ORDER BY fresh.word
        ON CONFLICT (namespace_id, word) DO UPDATE SET doubt_time = NULL
$$;

CREATE OR REPLACE FUNCTION model_text(model_id text, display_name text, labels jsonb, description text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT concat_ws(' ', model_id, display_name, description,
                     (SELECT string_agg(key || ' ' || value, ' ') FROM jsonb_each_text(labels)))
$$;

-- All texts of a card, as far as they are searched.
CREATE OR REPLACE FUNCTION card_text(sections jsonb, extra jsonb, markdown text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left(concat_ws(E'\n', (SELECT string_agg(value, E'\n') FROM jsonb_each_text(sections)),
                          (SELECT string_agg(value #>> '{}', E'\n')
                             FROM jsonb_path_query(extra, 'strict $.** ? (@.type() == "string")') AS value), markdown), 65536)
$$;

-- With their owner's rights: the old program writes before its role is given any on the new table.
CREATE OR REPLACE FUNCTION learn_from_model() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM learn_words(new.namespace_id, model_text(new.model_id, new.display_name, new.labels, new.description));
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION learn_from_models() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    INSERT INTO vocabulary (namespace_id, word)
    SELECT fresh_word.namespace_id, fresh_word.word
      FROM (SELECT DISTINCT namespace_id, word
              FROM fresh, spelt_words(model_text(model_id, display_name, labels, description)) AS word) AS fresh_word
     WHERE NOT EXISTS (SELECT FROM vocabulary AS known
                        WHERE known.namespace_id = fresh_word.namespace_id AND known.word = fresh_word.word
                          AND known.doubt_time IS NULL)
     ORDER BY fresh_word.namespace_id, fresh_word.word
        ON CONFLICT (namespace_id, word) DO UPDATE SET doubt_time = NULL;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION learn_from_card() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM learn_words(namespace_id, card_text(new.sections, new.extra, new.markdown)) FROM models WHERE id = new.model;
    RETURN NULL;
END $$;

-- Labels compare under NFC: as pairs they are kept so.
CREATE OR REPLACE FUNCTION set_label_pairs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.label_pairs := ARRAY(SELECT nfc(key || '=' || value) FROM jsonb_each_text(new.labels));
    RETURN new;
END $$;

-- A trigger needs a lock that waits for writers, and makes the next ones wait behind it.
SET lock_timeout = '5s';
CREATE OR REPLACE TRIGGER words_of_new_models AFTER INSERT ON models REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION learn_from_models();
CREATE OR REPLACE TRIGGER words_of_changed_models AFTER UPDATE OF display_name, labels, description ON models
    FOR EACH ROW EXECUTE FUNCTION learn_from_model();
CREATE OR REPLACE TRIGGER words_of_cards AFTER INSERT ON cards
    FOR EACH ROW EXECUTE FUNCTION learn_from_card();
SET lock_timeout = 0;

-- What is there already, a model at a time and each step a transaction of its own, so that nobody waits for this, and an
-- interrupted run costs nothing but its time: the words of all models, and another index of those that have other
-- characters than ASCII.
DO $$
DECLARE
    upto bigint := 0;
    each record;
BEGIN
    SET synchronous_commit = off;
    LOOP
        SELECT id, namespace_id, model_text(model_id, display_name, labels, description) AS text,
               (SELECT card_text(sections, extra, markdown) FROM cards
                 WHERE model = models.id ORDER BY number DESC LIMIT 1) AS card
          INTO each FROM models WHERE id > upto ORDER BY id LIMIT 1;
        EXIT WHEN NOT FOUND;
        PERFORM learn_words(each.namespace_id, each.text);
        PERFORM learn_words(each.namespace_id, each.card);
        COMMIT;
        IF octet_length(concat(each.text, each.card)) <> length(concat(each.text, each.card)) THEN
            -- With the row locked, the newest card is the one that its words are of.
            PERFORM FROM models WHERE id = each.id FOR NO KEY UPDATE;
            UPDATE models
               SET label_pairs = ARRAY(SELECT nfc(key || '=' || value) FROM jsonb_each_text(labels)),
                   card_words = words_of_card(coalesce(newest.card, '')),
                   search = model_words(model_id, display_name, labels, description)
                         || words_of_card(coalesce(newest.card, ''))
              FROM (SELECT (SELECT card_text(sections, extra, markdown) FROM cards
                             WHERE model = each.id ORDER BY number DESC LIMIT 1) AS card) AS newest
             WHERE id = each.id;
            COMMIT;
        END IF;
        upto := each.id;
    END LOOP;
    RESET synchronous_commit;
END $$;
