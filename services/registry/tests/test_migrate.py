"""
Migrations on a real database.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from embedded.postgres import SERVICE_ROLE, Postgres, owner
from modelyard.registry.v1 import aliases_pb2, evaluations_pb2, models_pb2, versions_pb2
from services.ledger.migrate import AHEAD, Migration, MigrationError, _statements, grant, main, migrate, migrations
from services.registry.migrate import FOLDER
from services.registry.tests.server import running
from services.registry.tests.test_evaluation_metrics import WRONG

ROOT = Path(__file__).resolve().parents[3]
ONE = Migration(1, "0001_one.sql", "CREATE TABLE one (x int)")
TWO = Migration(2, "0002_two.sql", "CREATE TABLE two (x int)")

_numbers = itertools.count(1)


@pytest.fixture
def empty(postgres: Postgres) -> str:
    """
    The URL of an empty database.
    """
    name = f"empty_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return postgres.url(name)


@pytest.fixture
async def connection(empty: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """
    A connection to it.
    """
    found = await asyncpg.connect(empty)
    yield found
    await found.close()


async def test_runs_what_has_not_run(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    Each file runs once, in order.
    """
    assert await migrate(connection, [ONE]) == ["0001_one.sql"]
    assert await migrate(connection, [ONE, TWO]) == ["0002_two.sql"]
    assert await migrate(connection, [ONE, TWO]) == []


async def test_refuses_a_changed_file(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    A file that changed after it ran stops everything.
    """
    await migrate(connection, [ONE])
    with pytest.raises(MigrationError, match=r"0001_one\.sql has changed since it ran"):
        await migrate(connection, [Migration(1, "0001_one.sql", f"{ONE.sql} "), TWO])
    assert await connection.fetchval("SELECT to_regclass('two')") is None


async def test_refuses_a_newer_database(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    An old program does not touch the database of a newer one.
    """
    await migrate(connection, [ONE, TWO])
    with pytest.raises(MigrationError, match="newer than this program"):
        await migrate(connection, [ONE])


async def test_a_failing_file_leaves_nothing(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    Of a file that fails nothing stays, and what ran before it does.
    """
    bad = Migration(2, "0002_bad.sql", "CREATE TABLE half (x int); SELECT 1/0")
    with pytest.raises(MigrationError, match=r"0002_bad\.sql failed and was rolled back: division by zero"):
        await migrate(connection, [ONE, bad])
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await migrate(connection, [ONE, TWO]) == ["0002_two.sql"]


async def test_does_not_wait_for_a_busy_table(
    connection: asyncpg.Connection[asyncpg.Record], empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A file that needs a table in use gives up soon instead of making everybody queue behind it.
    """
    monkeypatch.setattr("services.ledger.migrate._LOCK_TIMEOUT", "100ms")
    await migrate(connection, [ONE])
    other = await asyncpg.connect(empty)
    async with other.transaction():
        await other.execute("SELECT FROM one")
        with pytest.raises(MigrationError, match="waited 100ms for a table that is in use"):
            await migrate(connection, [ONE, Migration(2, "0002_add.sql", "ALTER TABLE one ADD y int")])
    await other.close()


async def test_several_at_once(empty: str) -> None:
    """
    Of processes that start at the same time one migrates and the others wait for it.
    """
    connections = [await asyncpg.connect(empty) for _ in range(4)]
    done = await asyncio.gather(*(migrate(each, migrations(FOLDER)) for each in connections))
    assert sorted(map(len, done)) == [0, 0, 0, len(migrations(FOLDER))]
    for each in connections:
        await each.close()


@pytest.mark.parametrize(
    "names", [["1_a.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["0002_b.sql"]]
)
def test_refuses_wrong_numbers(tmp_path: Path, names: list[str]) -> None:
    """
    Files are numbered 0001, 0002 …, without gaps or repetitions.
    """
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(MigrationError):
        migrations(tmp_path)


@dataclass(frozen=True)
class Done:
    """
    A run of the command: its exit code and what it logged.
    """

    code: int
    log: str


Run = Callable[..., Coroutine[Any, Any, Done]]


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Runs the command in this process: with arguments, on a database.
    """
    caplog.set_level(logging.INFO, "services.ledger.migrate")
    # It is the first to configure logging when it is a process of its own.
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    async def run(url: str, *arguments: str) -> Done:
        monkeypatch.setenv("MODELYARD_DATABASE_URL", url)
        caplog.clear()
        code = await asyncio.to_thread(main, FOLDER, arguments)
        return Done(code, "\n".join(caplog.messages))

    return run


def command(**environ: str) -> subprocess.CompletedProcess[str]:
    """
    `python -m services.registry.migrate`.
    """
    argv = [sys.executable, "-m", "services.registry.migrate"]
    return subprocess.run(
        argv, env={"PATH": "", **environ}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


async def test_command(empty: str, run: Run) -> None:
    """
    The command says what it did, on stderr.
    """
    first = await asyncio.to_thread(command, MODELYARD_DATABASE_URL=empty)
    names = ", ".join(each.name for each in migrations(FOLDER))
    assert (first.returncode, first.stderr.strip()) == (0, f"migrated: {names}")
    assert await run(empty) == Done(0, "the database has the newest schema")


@pytest.fixture
def migrated_url(new_database: Callable[[], str]) -> str:
    """
    The owner's URL of a database with the newest schema.
    """
    return owner(new_database())


@pytest.fixture
async def migrated_connection(migrated_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """
    A connection to it.
    """
    found = await asyncpg.connect(migrated_url)
    yield found
    await found.close()


async def test_a_rollback_leaves_the_schema_alone(
    migrated_url: str, migrated_connection: asyncpg.Connection[asyncpg.Record], run: Run
) -> None:
    """
    The migration of an earlier release, which a rollback runs again, succeeds on a newer schema and changes nothing: no
    table, and no right of the role, with which the newer programs still run.
    """
    connection = migrated_connection
    await connection.execute("CREATE TABLE later (x int)")
    await connection.execute(f"GRANT SELECT, INSERT ON later TO {SERVICE_ROLE}")
    await connection.execute(
        "INSERT INTO schema_migrations (number, name, sha256) VALUES (9999, '9999_later.sql', 'x')"
    )
    newer = "the database has 9999_later.sql, which is newer than this program: nothing is changed"
    assert await run(migrated_url) == Done(0, newer)
    assert await connection.fetchval("SELECT has_table_privilege($1, 'later', 'INSERT')", SERVICE_ROLE)


async def test_a_changed_file_is_refused_on_a_newer_schema_too(
    migrated_url: str, migrated_connection: asyncpg.Connection[asyncpg.Record], run: Run
) -> None:
    """
    A changed migration file is detected on a newer schema, too.
    """
    connection = migrated_connection
    await connection.execute(
        "INSERT INTO schema_migrations (number, name, sha256) VALUES (9999, '9999_later.sql', 'x')"
    )
    await connection.execute("UPDATE schema_migrations SET sha256 = 'y' WHERE number = 1")
    done = await run(migrated_url)
    assert (done.code, "has changed since it ran" in done.log) == (1, True)


async def test_going_on_after_a_restore(
    empty: str, migrated_url: str, migrated_connection: asyncpg.Connection[asyncpg.Record], run: Run
) -> None:
    """
    --restored moves the revision far ahead and leaves a gap that watchers are notified of; without a schema the error
    says what to do first.
    """
    early = await run(empty, "--restored")
    assert (early.code, "Restore the database first" in early.log) == (1, True)
    connection = migrated_connection
    before = await connection.fetchval("SELECT value FROM revision")
    assert (await run(migrated_url, "--restored")).code == 0
    rows = await connection.fetch("SELECT revision, size FROM changes ORDER BY revision DESC LIMIT 2")
    assert [tuple(row) for row in rows] == [(before + AHEAD, 0), (before, 1)]
    assert await connection.fetchval("SELECT value FROM revision") == before + AHEAD


async def test_waiting_for_the_schema(empty: str, connection: asyncpg.Connection[asyncpg.Record], run: Run) -> None:
    """
    With --wait nothing is changed: it fails as long as the schema is older than the program's, and then it does not.
    """
    waited = await run(empty, "--wait", "0")
    assert waited.code == 1
    assert f"the database has migration 0 of {len(migrations(FOLDER))}" in waited.log
    waiting = asyncio.create_task(run(empty, "--wait", "20"))
    await asyncio.sleep(0)
    assert await migrate(connection, migrations(FOLDER))
    assert (await waiting).code == 0


async def test_an_owner_who_may_make_no_roles(postgres: Postgres, empty: str, run: Run) -> None:
    """
    The owner of a managed database often cannot create roles: the migration uses a role that was created beforehand.
    """
    name = empty.partition("@/")[2].partition("?")[0]
    postgres.sql("DO $$ BEGIN CREATE ROLE modest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    postgres.sql("DO $$ BEGIN CREATE ROLE modelyard_service LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    postgres.sql(f"ALTER DATABASE {name} OWNER TO modest")
    done = await run(postgres.url(name, "modest"))
    assert done.code == 0, done.log


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "MODELYARD_DATABASE_URL is not set"),
        ({"MODELYARD_DATABASE_URL": "mysql://x"}, "expected a URL that starts with postgresql://"),
        (
            {"MODELYARD_DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "MODELYARD_DATABASE_STARTUP_SECONDS": "0.1"},
            "the database did not answer within 0.1 s",
        ),
    ],
)
def test_command_that_cannot(environ: dict[str, str], says: str) -> None:
    """
    An error is logged without a traceback, and the exit code is 1.
    """
    done = command(**environ)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_shipped_files_are_sound(new_database: Callable[[], str]) -> None:
    """
    The shipped schema refuses what no program should write: a second counter, an overlapping usage, a changed audit.
    """
    connection = await asyncpg.connect(new_database())
    for statement in (
        "INSERT INTO revision (value) VALUES (7)",
        "INSERT INTO revision (singleton, value) VALUES (false, 7)",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE namespace_usage SET models = -1",
        "UPDATE namespaces SET namespace_id = 'a b'",
    ):
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(statement)
    await connection.close()


OLD_DATA = """
INSERT INTO namespaces VALUES ('team', '', '', '', '{}', 0, 0, now(), now(), 2, 128);
INSERT INTO namespace_usage VALUES ('team', 2);
INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                    annotations, parameter_count, latest_version, create_time, update_time, revision, octets, search)
SELECT 'team', id, '', 'A pelican', '', '', '', '', labels::jsonb, '{}', 7, 1, now(), now(), 3, 200,
       model_words(id, '', labels::jsonb, 'A pelican')
  FROM (VALUES ('convnext_base', '{"team": "vision"}'), ('resnet50', '{}')) AS old (id, labels);
INSERT INTO versions
SELECT id, 1, 'READY', '', '', '[]', '', '{}', '', '', '', '{}', 1000, now(), now(), 3, 200 FROM models;
INSERT INTO aliases SELECT id, 'production', 1, tstzrange(now(), NULL), 'ann', 3 FROM models;
INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time, create_time,
                         revision, octets)
SELECT 'team', id, 1, 'imagenet', 'top1', 80 + id, '{}', now(), now(), 3, 512 FROM models;
UPDATE revision SET value = 3;
INSERT INTO changes SELECT n, now(), '{namespaces/team}', '{1}', '{true}' FROM generate_series(2, 3) AS n;
INSERT INTO audit
SELECT n, 1, now(), 'ann', 'CreateModel', 'namespaces/team', '', NULL, '{}' FROM generate_series(2, 3) AS n;
"""


async def test_from_the_first_schema_to_the_last(connection: asyncpg.Connection[asyncpg.Record], empty: str) -> None:
    """
    A database of the first schema with data in it comes to the newest: all of it is read, searched and written as if it
    had been made today, and what the first program writes meanwhile is found, too.
    """
    await migrate(connection, migrations(FOLDER)[:1])
    await connection.execute(OLD_DATA)
    assert await migrate(connection, migrations(FOLDER)) == [each.name for each in migrations(FOLDER)[1:]]
    # The first program is still running, and knows nothing of new columns.
    await connection.execute("""
    INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                        annotations, parameter_count, create_time, update_time, revision, octets, search)
    SELECT 'team', 'late', '', '', '', '', '', '', '{"team": "vision"}', '{}', 0, now(), now(), 3, 200,
           model_words('late', '', '{"team": "vision"}', '')
    """)
    await grant(connection, FOLDER, SERVICE_ROLE)
    assert await connection.fetchval("SELECT asset_bytes FROM namespace_usage WHERE namespace_id = 'team'") == 2000
    async with running(empty.replace("//postgres@", f"//{SERVICE_ROLE}@")) as registry:

        async def found(**request: Any) -> set[str]:
            search = models_pb2.SearchModelsRequest(parent="namespaces/team", **request)
            return {each.name.rpartition("/")[2] for each in (await registry.models.SearchModels(search)).models}

        assert await found(query="pelican") == {"convnext_base", "resnet50"}
        assert await found(query="convnxt") == {"convnext_base"}
        assert await found(query="pelcian") == {"convnext_base", "resnet50"}
        assert await found(filter="labels.team:vision") == {"convnext_base", "late"}
        assert await found(filter="evaluations.imagenet.top1 > 80") == {"convnext_base", "resnet50"}
        board = evaluations_pb2.QueryLeaderboardRequest(parent="namespaces/team", dataset="imagenet", metric="top1")
        entries = (await registry.evaluations.QueryLeaderboard(board)).entries
        assert [each.model.rpartition("/")[2] for each in entries] == ["resnet50", "convnext_base"]
        assert await connection.fetchval(WRONG) == 0
        name = "namespaces/team/models/resnet50"
        alias = await registry.aliases.GetAlias(aliases_pb2.GetAliasRequest(name=f"{name}/aliases/production"))
        assert alias.version == f"{name}/versions/1"
        version = await registry.versions.CreateVersion(versions_pb2.CreateVersionRequest(parent=name))
        assert (version.number, version.revision) == (2, 4)


async def test_results_that_come_while_best_is_made(connection: asyncpg.Connection[asyncpg.Record], empty: str) -> None:
    """
    What is recorded, by the program from before, while the models are taken over, is counted once; a model that is
    locked meanwhile is taken over when it is free.
    """
    whole = migrations(FOLDER)[9]
    before, cut, after = whole.sql.partition("-- A model is taken over")
    files = [*migrations(FOLDER)[:9], Migration(10, whole.name, before)]
    await migrate(connection, files[:9])
    await connection.execute(OLD_DATA)
    await migrate(connection, files)
    other = await asyncpg.connect(empty)
    async with other.transaction():
        await other.execute("SELECT FROM models WHERE model_id = 'resnet50' FOR SHARE")
        rest = Migration(11, "0011_rest.sql", f"-- outside a transaction\n{cut}{after}")
        migration = asyncio.create_task(migrate(connection, [*files, rest]))
        while not await other.fetchval("SELECT count(*) FROM best"):
            await asyncio.sleep(0.01)
        await other.execute("""
        INSERT INTO evaluations (namespace_id, model, version, dataset, metric, value, parameters, evaluate_time,
                                 create_time, revision, octets)
        SELECT 'team', id, 1, 'imagenet', 'top1', 99, '{}', now(), now(), 3, 512 FROM models
        """)
        assert not migration.done()
    await migration
    assert await connection.fetchval("SELECT count(*) FROM best WHERE high = 99 AND results = 2") == 2
    assert await connection.fetchval(WRONG) == 0
    await other.close()


UNSPACED = """
INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                    annotations, parameter_count, create_time, update_time, revision, octets, search)
SELECT 'default', id, title, 'A convnext', '', '', '', '', labels::jsonb, '{}', 7, now(), now(), 1, 200,
       model_words(id, title, labels::jsonb, 'A convnext')
  FROM (VALUES ('zh', '中文图像识别模型', '{"where": "' || normalize('Ångström', NFD) || '"}'), ('carded', '', '{}'))
       AS old (id, title, labels);
INSERT INTO cards (model, number, sections, markdown, extra, front, update_time, actor, revision, octets)
SELECT id, 1, '{"intended_use": "今月の売上予測"}', 'An efficientnet', '{"list": [{"deep": "ภาพใบหน้า"}]}', '', now(),
       '', 1, 1
  FROM models WHERE model_id = 'carded';
UPDATE models SET card_words = words_of_card('今月の売上予測'), search = search || words_of_card('今月の売上予測')
 WHERE model_id = 'carded';
"""


async def test_old_texts_are_indexed_anew(connection: asyncpg.Connection[asyncpg.Record], empty: str) -> None:
    """
    Texts without spaces, decomposed labels and the words of cards that were there before are found, and typos of words
    that were there before are mended. A migration that was interrupted there can be run again.
    """
    files = migrations(FOLDER)
    await migrate(connection, files[:7])
    await connection.execute(UNSPACED)
    await migrate(connection, files[:8])
    await connection.execute("DELETE FROM schema_migrations WHERE number = 8; DELETE FROM vocabulary")
    await migrate(connection, files)
    await grant(connection, FOLDER, SERVICE_ROLE)
    async with running(empty.replace("//postgres@", f"//{SERVICE_ROLE}@")) as registry:

        async def found(**request: Any) -> set[str]:
            search = models_pb2.SearchModelsRequest(parent="namespaces/default", **request)
            return {each.name.rpartition("/")[2] for each in (await registry.models.SearchModels(search)).models}

        assert await found(query="识别") == {"zh"}
        assert await found(query="売上") == {"carded"}
        assert await found(query="ภาพ") == {"carded"}
        assert await found(query="efficentnet") == {"carded"}
        assert await found(query="convnxt") == {"zh", "carded"}
        assert await found(filter='labels.where = "Ångström"') == {"zh"}


async def test_writers_go_on_before_the_grants(
    connection: asyncpg.Connection[asyncpg.Record], empty: str, tmp_path: Path
) -> None:
    """
    The old program writes while the migration runs, and before the rights of the service's role are given anew.
    """
    files = migrations(FOLDER)
    await migrate(connection, files[:7])
    # Of what the release before grants, what it writes here.
    rights = ("USAGE ON SCHEMA public", "SELECT ON ALL TABLES IN SCHEMA public", "INSERT, UPDATE ON models")
    (tmp_path / "grants.sql").write_text("\n".join(f"GRANT {right} TO $role;" for right in rights), encoding="utf-8")
    await grant(connection, tmp_path, SERVICE_ROLE)
    await migrate(connection, files)
    service = await asyncpg.connect(empty.replace("//postgres@", f"//{SERVICE_ROLE}@"))
    try:
        await service.execute("""
        INSERT INTO models (namespace_id, model_id, display_name, description, owner, task, framework, license, labels,
                            annotations, parameter_count, create_time, update_time, revision, octets, search)
        VALUES ('default', 'late', '', 'efficientnet', '', '', '', '', '{}', '{}', 0, now(), now(), 1, 200, '');
        UPDATE models SET description = 'convnext'
        """)
    finally:
        await service.close()
    assert await connection.fetchval("SELECT array_agg(word ORDER BY word) FROM vocabulary") == [
        "convnext", "efficientnet", "late"
    ]  # fmt: skip


def test_bodies_of_functions_are_not_cut() -> None:
    """
    A statement ends with a semicolon at the end of a line, but not within $$ … $$.
    """
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN 1;\nEND $$"
    assert _statements(f"SELECT 1;\n{body};\nSELECT 2;\n") == ["SELECT 1", body, "SELECT 2", ""]


async def test_an_index_that_was_interrupted_is_built_again(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    What a stopped run left half built does not pass for an index.
    """
    index = Migration(2, "0002_index.sql", "-- outside a transaction\nCREATE UNIQUE INDEX CONCURRENTLY i ON one (x);\n")
    await migrate(connection, [ONE])
    await connection.execute("INSERT INTO one VALUES (1), (1)")
    with pytest.raises(
        MigrationError, match=r"0002_index\.sql was interrupted: run the migration again: could not create unique index"
    ):
        await migrate(connection, [ONE, index])
    assert not await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")
    await connection.execute("DELETE FROM one")
    assert await migrate(connection, [ONE, index]) == ["0002_index.sql"]
    assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")


async def test_a_role_that_is_no_name(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """
    The service's role is interpolated into statements: only a plain name is accepted.
    """
    with pytest.raises(MigrationError, match="MODELYARD_DATABASE_SERVICE_ROLE must match"):
        await grant(connection, FOLDER, "x; DROP TABLE audit")
