"""
The command line against real services: what it prints, how it fails, how it ends.
"""

from __future__ import annotations

import hashlib
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelyard.cli.main import main
from tests.client.commands import Done, Run, new_id, runner
from tests.client.probe import probing
from tests.client.processes import interruptible

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Imported:
    """
    A namespace with the timm leaderboard, and what the import printed.
    """

    namespace: str
    done: Done


@pytest.fixture(scope="module")
def leaderboard(cli: Run) -> Imported:
    """
    The timm leaderboard in a namespace of its own.
    """
    namespace = new_id("timm")
    cli("namespaces", "create", namespace)
    return Imported(namespace, cli("import", "timm", "--namespace", namespace, "--json"))


def test_namespaces(cli: Run) -> None:
    """
    A namespace is made, shown and listed.
    """
    name = new_id("team")
    made = cli("namespaces", "create", name, "--owner", "ada", "--label", "floor=3")
    assert made.code == 0
    assert f"namespaces/{name}" in made.out
    assert cli("namespaces", "get", name).out == made.out
    assert [name, "ada"] in [row[:2] for row in cli("namespaces", "list", "--limit", "0").table()]


def test_a_model_by_all_its_names(cli: Run) -> None:
    """
    A short name, one with the namespace and the full one are the same model.
    """
    model = new_id("resnet50.a1_in1k")
    assert cli("models", "create", model, "--task", "vision", "--parameter-count", "25560000").code == 0
    shown = {
        cli("models", "get", name).out for name in (model, f"default/{model}", f"namespaces/default/models/{model}")
    }
    assert len(shown) == 1
    assert "25,560,000" in shown.pop()


def test_update_changes_what_is_given(cli: Run) -> None:
    """
    Fields that are not given stay; labels are added, replaced and, when empty, taken away.
    """
    model = new_id("m")
    cli("models", "create", model, "--task", "vision", "--owner", "ada", "--label", "a=1", "--label", "b=2")
    updated = cli("--json", "models", "update", model, "--owner", "bob", "--label", "b=3", "--label", "a=")
    (message,) = updated.messages()
    assert (message["task"], message["owner"], message["labels"]) == ("vision", "bob", {"b": "3"})
    (listed,) = [
        each for each in cli("models", "list", "--limit", "0", "--json").messages() if each["name"].endswith(model)
    ]
    assert listed == message


def test_lists_in_pages(cli: Run) -> None:
    """
    A limit cuts, 0 gives all, however many pages that takes.
    """
    namespace = new_id("many")
    cli("namespaces", "create", namespace)
    for number in range(3):
        cli("models", "create", f"{namespace}/m{number}")
    assert len(cli("models", "list", namespace, "--limit", "2").table()) == 1 + 2
    assert len(cli("models", "list", namespace, "--limit", "0").table()) == 1 + 3
    empty = cli("models", "list", namespace, "--limit", "-1")
    assert (empty.code, "must not be negative" in empty.err) == (2, True)


def test_versions_and_aliases(cli: Run, tmp_path: Path) -> None:
    """
    Bytes are stored, a version points at them and is finalized, an alias points at the version and is followed.
    """
    file, model = tmp_path / "weights.bin", new_id("m")
    file.write_bytes(random.SystemRandom().randbytes(1000))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert cli("assets", "put", str(file)).code == 0
    cli("models", "create", model)
    created = cli(
        "versions", "create", model, "--artifact", f"a=b/weights.bin={sha256}:1000", "--training-data", "imagenet"
    )
    assert "PENDING" in created.out
    assert f"file a=b/weights.bin  {sha256}  1000 B" in created.out
    assert "READY" in cli("versions", "finalize", f"{model}@1").out
    moved = cli("aliases", "set", model, "production", "1")
    assert f"models/{model}/versions/1" in moved.out
    assert cli("aliases", "get", model, "production").out == moved.out
    assert cli("aliases", "list", model).table()[1][:2] == ["production", "1"]
    followed = cli("versions", "get", f"{model}@production")
    assert followed.out == cli("versions", "get", f"namespaces/default/models/{model}/versions/1").out
    assert cli("versions", "list", model).table()[1][:2] == ["1", "READY"]
    refused = cli("aliases", "set", model, "production", "1", "--expect", "7")
    assert refused.code == 5
    assert refused.err.startswith("modelyard: ABORTED (ALIAS_MOVED): ")


def test_timm(cli: Run, leaderboard: Imported) -> None:
    """
    The whole leaderboard comes in, is found, ranked and listed, and comes in only once.
    """
    namespace = leaderboard.namespace
    (first,) = leaderboard.done.messages()
    assert (first["createdModels"], first["createdVersions"], first["recordedEvaluations"]) == ("1556", "1556", "18670")
    again = cli("import", "timm", "--namespace", namespace)
    assert (again.code, "ALREADY_EXISTS (MODEL_EXISTS)" in again.err) == (5, True)
    skipped = cli("import", "timm", "--namespace", namespace, "--skip-existing")
    assert ["models", "skipped", "1,556"] in skipped.table()
    board = cli("leaderboard", "imagenet", "top1", "--namespace", namespace, "--limit", "2").table()
    assert board[1][:3] == ["1", "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", "90.056"]
    found = cli(
        "models",
        "search",
        "convnext",
        "imagenet",
        "--filter",
        "evaluations.imagenet.top1 > 88",
        "--namespace",
        namespace,
    )
    assert found.code == 0
    assert all("convnext" in row[0] for row in found.table()[1:])
    results = cli("evaluations", "list", f"{namespace}/resnet50.a1_in1k", "--dataset", "imagenet").table()
    assert [row[:4] for row in results[1:]] == [["1", "imagenet", "top1", "81.24"], ["1", "imagenet", "top5", "95.112"]]
    assert cli("evaluations", "list", f"{namespace}/resnet50.a1_in1k@1", "--metric", "top1", "--limit", "0").code == 0


def test_evaluations(cli: Run) -> None:
    """
    Results are recorded, corrected and taken back, with ids as people write them; whole values are shown; a leaderboard
    goes by what is said of its metric, and one that is empty says what there is.
    """
    namespace = new_id("evals")
    cli("namespaces", "create", namespace)
    cli("models", "create", f"{namespace}/m")
    cli("versions", "create", f"{namespace}/m")
    version = f"{namespace}/m@1"
    done = cli("evaluations", "record", version, "GLUE/SST-2", "acc@1=0.91", "val/loss=123456789.123", "n=1e20")
    assert (done.code, ["recorded", "3"] in done.table()) == (0, True), done.err
    shown = {row[2]: row[3] for row in cli("evaluations", "list", version, "--dataset", "GLUE/SST-2").table()[1:]}
    assert shown == {"acc@1": "0.91", "val/loss": "123456789.123", "n": "1e+20"}
    done = cli("evaluations", "record", version, "GLUE/SST-2", "acc@1=0.92", "val/loss=12", "--replace")
    assert ["replaced", "2"] in done.table()
    board = cli("leaderboard", "GLUE/SST-2", "val/loss", "--namespace", namespace)
    assert board.table()[1][:3] == ["1", "m", "12"]
    assert ["better", "lower"] in cli("evaluations", "direction", "val/loss", "lower", "--namespace", namespace).table()
    assert ["val/loss", "lower", "1", "1"] in cli("evaluations", "metrics", "--namespace", namespace).table()
    assert cli("evaluations", "datasets", "--namespace", namespace).table()[1:] == [["GLUE/SST-2", "3", "3"]]
    wrong = cli("leaderboard", "GLUE/SST-2", "acc", "--namespace", namespace)
    assert wrong.err == "no results\non GLUE/SST-2 there are results of: acc@1, n, val/loss\n"
    assert "but on: GLUE/SST-2" in cli("leaderboard", "glue", "acc@1", "--namespace", namespace).err
    assert cli("evaluations", "delete", version).code == 1
    assert ["deleted", "1"] in cli("evaluations", "delete", version, "--metric", "n").table()
    names = [row[-1] for row in cli("evaluations", "list", f"{namespace}/m", "--names").table()[1:]]
    assert ["deleted", "2"] in cli("evaluations", "delete", *names).table()
    assert cli("evaluations", "list", f"{namespace}/m").err == "no results\n"
    assert cli("evaluations", "record", version, "d", "acc").code == 2


def test_import_without_the_files(cli: Run, tmp_path: Path) -> None:
    """
    A folder without the leaderboard is named.
    """
    done = cli("import", "timm", "--path", str(tmp_path))
    assert done.code == 1
    assert done.err == f"modelyard: {tmp_path}/results.csv: No such file or directory\n"


def test_assets(cli: Run, tmp_path: Path) -> None:
    """
    A file is stored, shown, listed and brought back.
    """
    file, copy = tmp_path / "card.txt", tmp_path / "copy"
    file.write_text(new_id("text"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    put = cli("assets", "put", str(file))
    assert f"assets/{sha256}" in put.out
    assert "text/plain" in put.out
    assert put.err == ""
    assert cli("assets", "stat", sha256).out == put.out
    assert sha256 in [row[0] for row in cli("assets", "ls", "--limit", "0").table()]
    assert cli("assets", "get", f"assets/{sha256}", str(copy)).out == put.out
    assert copy.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["models", "get", "nobody"], "NOT_FOUND (MODEL_NOT_FOUND): namespaces/default/models/nobody does not exist"),
        (["models", "create", "a b"], "INVALID_ARGUMENT (INVALID_FIELDS): model_id: must match"),
        (["models", "search", "--filter", "task <"], "INVALID_ARGUMENT (INVALID_FIELDS): filter: "),
        (["versions", "get", "nobody@production"], "NOT_FOUND (MODEL_NOT_FOUND): "),
        (["assets", "stat", "x"], "INVALID_ARGUMENT (INVALID_FIELDS): name: must be assets/"),
    ],
)
def test_failures(cli: Run, arguments: list[str], line: str) -> None:
    """
    A call that fails is one line with the status, the reason and the fields, on stderr.
    """
    done = cli(*arguments)
    assert (done.code, done.out) == (3 if line.startswith("NOT_FOUND") else 2, "")
    assert done.err.startswith(f"modelyard: {line}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["models"],
        ["models", "frobnicate"],
        ["versions", "finalize", "model-without-version"],
        ["versions", "create", "m", "--artifact", "weights"],
        ["models", "create", "m", "--label", "x"],
        ["models", "create", "m", "--parameter-count", "many"],
        ["--target", "ftp://x", "models", "list"],
    ],
)
def test_wrong_command_lines(cli: Run, arguments: list[str]) -> None:
    """
    A wrong command line says how it should be, with exit code 2.
    """
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "usage: modelyard" in done.err
    assert "Traceback" not in done.err


def test_nobody_answers(tmp_path: Path) -> None:
    """
    An address where nobody listens, and a token file that is not there, are said in a line.
    """
    nobody = runner("127.0.0.1:1")
    done = nobody("models", "list")
    assert done == Done(
        6,
        "",
        "modelyard: UNAVAILABLE: no server responds at 127.0.0.1:1: is it running? "
        "(--target selects the server, --ca-file enables TLS)\n",
    )
    missing = nobody("--token-file", str(tmp_path / "token"), "models", "list")
    assert missing == Done(1, "", f"modelyard: {tmp_path}/token: No such file or directory\n")


def test_options_before_and_after(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """
    The options of every command may stand after its name, too; the token goes along.
    """
    token = tmp_path / "token"
    token.write_text("secret\n")
    with probing() as probe:
        assert main(["models", "get", "m", "--target", probe.target, "--token-file", str(token), "--json"]) == 0
        assert main(["--json", "--target", probe.target, "models", "get", "m"]) == 0
    assert [line[:1] for line in capsys.readouterr().out.splitlines()] == ["{", "{"]
    assert [metadata.get("authorization") for _, metadata, _ in probe.calls] == ["Bearer secret", None]


def test_watch_until_ctrl_c(cli: Run, gateway: str) -> None:
    """
    Changes show as they happen; Ctrl-C ends it quietly with exit code 130.
    """
    model = new_id("watched")
    cli("models", "create", model)
    watching = interruptible(
        "--target", gateway, "watch", "--from", "1", "--prefix", f"namespaces/default/models/{model}"
    )
    try:
        assert watching.stdout is not None
        # What changed with all that is below it, such as the namespace, concerns the model, too, and may come first.
        line = next((line for line in iter(watching.stdout.readline, "") if model in line), "")
        assert f"CREATED  namespaces/default/models/{model}" in line
        cli("models", "update", model, "--owner", "ada")
        assert f"UPDATED  namespaces/default/models/{model}" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=20)
    finally:
        watching.kill()
    assert (watching.returncode, err) == (130, "")


def test_reader_that_has_enough(leaderboard: Imported, gateway: str) -> None:
    """
    `modelyard … | head -1` ends without complaint.
    """
    listing = interruptible("--target", gateway, "models", "list", leaderboard.namespace, "--limit", "0", "--json")
    assert listing.stdout is not None
    assert listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr is not None
    assert listing.stderr.read() == ""
    listing.wait(20)


def test_a_model_that_goes_and_comes_back(cli: Run) -> None:
    """
    A deleted model is left out of the list, comes back, and is purged only with --yes.
    """
    namespace = new_id("going")
    cli("namespaces", "create", namespace)
    cli("models", "create", f"{namespace}/m")
    assert cli("models", "delete", f"{namespace}/m").code == 0
    assert cli("models", "list", namespace).out == ""
    assert len(cli("models", "list", namespace, "--deleted").table()) == 1 + 1
    assert cli("models", "undelete", f"{namespace}/m").code == 0
    assert len(cli("models", "list", namespace).table()) == 1 + 1
    cli("models", "delete", f"{namespace}/m")
    full = cli("namespaces", "delete", namespace)
    assert (full.code, "NAMESPACE_NOT_EMPTY" in full.err) == (5, True)
    assert cli("models", "purge", f"{namespace}/m").code == 2
    assert cli("models", "purge", f"{namespace}/m", "--yes").code == 0
    assert cli("namespaces", "delete", namespace).code == 0
    assert cli("namespaces", "get", namespace).code == 3


def test_namespace_update(cli: Run) -> None:
    """
    What is given of a namespace changes, a quota included, and the rest stays.
    """
    namespace = new_id("team")
    cli("namespaces", "create", namespace, "--owner", "ada", "--label", "a=1")
    (changed,) = cli("--json", "namespaces", "update", namespace, "--max-models", "1", "--label", "b=2").messages()
    assert (changed["owner"], changed["labels"]) == ("ada", {"a": "1", "b": "2"})
    assert changed["quota"] == {"maxModels": "1", "maxAssetBytes": "0"}
    assert cli("models", "create", f"{namespace}/m").code == 0
    full = cli("models", "create", f"{namespace}/n")
    assert (full.code, "MODEL_QUOTA" in full.err) == (7, True)


def test_the_history_of_an_alias(cli: Run) -> None:
    """
    Where an alias pointed when is shown, also at a time; a rollback and a removal are part of it.
    """
    model = new_id("m")
    cli("models", "create", model)
    for _ in range(2):
        cli("versions", "create", model)
    for number in ("1", "2"):
        cli("versions", "finalize", f"{model}@{number}")
        cli("aliases", "set", model, "production", number)
    assert f"{model}/versions/1" in cli("aliases", "rollback", model, "production").out
    assert cli("aliases", "remove", model, "production").code == 0
    moves = cli("--json", "aliases", "history", model, "production").messages()
    assert [each.get("version", "").rpartition("/")[2] for each in moves] == ["", "1", "2", "1"]
    then = cli("aliases", "get", model, "production", "--at", moves[2]["startTime"])
    assert f"{model}/versions/2" in then.out
    bad = cli("aliases", "get", model, "production", "--at", "yesterday")
    assert (bad.code, "is not a time" in bad.err) == (2, True)


def test_versions_that_change_and_fail(cli: Run) -> None:
    """
    A version changes, its labels one at a time, and one that is given up says why.
    """
    model = new_id("m")
    cli("models", "create", model)
    for _ in range(2):
        cli("versions", "create", model)
    assert "candidate" in cli("versions", "update", f"{model}@1", "--stage", "candidate").out
    cli("versions", "finalize", f"{model}@1")
    assert "stage" in cli("versions", "update", f"{model}@1", "--stage", "other").out
    assert "a=b" in cli("versions", "update", f"{model}@1", "--label", "a=b").out
    assert "a=b c=d" in cli("versions", "label", f"{model}@1", "c=d", "none-").out.replace(",", "")
    assert "a=b" not in cli("versions", "label", f"{model}@1", "a-").out
    wrong = cli("versions", "label", f"{model}@1", "a")
    assert (wrong.code, "neither KEY=VALUE nor KEY-" in wrong.err) == (2, True)
    assert "out of memory" in cli("versions", "fail", f"{model}@2", "out of memory").out


def test_versions_are_searched(cli: Run) -> None:
    """
    Versions are found by a filter in a namespace or a model; what they came from is set at creation.
    """
    model = new_id("m")
    cli("models", "create", model)
    made = cli(
        "versions", "create", model, "--source", f"s3://{model}/a", "--run-link", "https://runs/1", "--stage", "x"
    )
    assert all(each in made.out for each in (f"s3://{model}/a", "https://runs/1", "anonymous"))
    cli("versions", "create", model)
    assert "https://runs/2" in cli("versions", "update", f"{model}@2", "--run-link", "https://runs/2").out
    found = cli("versions", "search", "--filter", f'like(source, "s3://{model}/%")').out
    assert (f"{model}/versions/1" in found, f"{model}/versions/2" in found) == (True, False)
    found = cli("versions", "search", "--model", model, "--order-by", "number", "--limit", "1").out
    assert (f"{model}/versions/1" in found, f"{model}/versions/2" in found) == (True, False)
    assert "no version matches" in cli("versions", "search", "--model", model, "--filter", "stage = none").err
    assert "at 1" in cli("versions", "search", "--filter", "nonsense = 1").err
    assert cli("versions", "search", "--model", model, "--namespace", "default").code == 2


def test_a_deleted_model_is_replaced(cli: Run) -> None:
    """
    A model is created in the place of a deleted one when that is asked for.
    """
    model = new_id("m")
    cli("models", "create", model)
    cli("models", "delete", model)
    assert "MODEL_EXISTS" in cli("models", "create", model).err
    assert cli("models", "create", model, "--replace-deleted").code == 0


def test_versions_that_go(cli: Run) -> None:
    """
    A version that an alias points at is deleted by force only; then lists show it when they are asked for it.
    """
    model = new_id("m")
    cli("models", "create", model)
    cli("versions", "create", model)
    cli("versions", "finalize", f"{model}@1")
    assert "production" in cli("aliases", "set", model, "production", "1", "--if-absent").out
    again = cli("aliases", "set", model, "production", "1", "--if-absent")
    assert (again.code, "ALIAS_MOVED" in again.err) == (5, True)
    assert "production" in cli("aliases", "list", model, "--version", "1").out
    copied = cli("versions", "copy", f"{model}@1", model)
    assert (f"{model}/versions/2" in copied.out, "copied from" in copied.out) == (True, True)
    assert "no READY version" in cli("versions", "find", "--sha256", "0" * 64).err
    refused = cli("versions", "delete", f"{model}@production")
    assert (refused.code, "VERSION_ALIASED" in refused.err) == (5, True)
    gone = cli("versions", "delete", f"{model}@production", "--force")
    assert (gone.code, "is deleted" in gone.out + gone.err) == (0, True)
    assert "VERSION_DELETED" in cli("versions", "get", f"{model}@1").err
    assert "DELETED" not in cli("versions", "list", model).out
    assert "DELETED" in cli("versions", "list", model, "--deleted").out


def test_models_are_labelled(cli: Run) -> None:
    """
    Labels of a model are set and removed one at a time.
    """
    model = new_id("m")
    cli("models", "create", model, "--label", "a=1")
    assert "b=2" in cli("models", "update", model, "--label", "b=2").out
    out = cli("models", "label", model, "c=3", "a-").out
    assert ("a=1" in out, "b=2" in out, "c=3" in out) == (False, True, True)


def test_cards(cli: Run, tmp_path: Path) -> None:
    """
    A README.md is imported, exported to the letter, and kept by its number.
    """
    model, readme, copy = new_id("m"), tmp_path / "README.md", tmp_path / "copy.md"
    readme.write_bytes(b"---\r\nlicense: mit\r\nfoo: [1, 2]\r\n---\r\n# M\r\n")
    cli("models", "create", model)
    made = cli("cards", "import", model, str(readme))
    assert (made.code, "mit" in made.out, "foo" in made.out) == (0, True, True)
    assert cli("cards", "export", model, "--output", str(copy)).code == 0
    assert copy.read_bytes() == readme.read_bytes()
    readme.write_text("# other")
    cli("cards", "import", model, str(readme))
    assert cli("cards", "export", model).out == "# other"
    assert cli("cards", "export", model, "--number", "1").out.startswith("---")
    listed = cli("cards", "history", model)
    assert (len(listed.table()), listed.err) == (1 + 2, "")
    former = cli("cards", "numbers", model)
    assert former.out == listed.out
    assert former.err == "warning: `modelyard cards numbers` is deprecated: use `modelyard cards history`\n"
    readme.write_text(
        "---\npipeline_tag: t\ntags: [A B]\nmodel-index:\n- results:\n"
        "  - {dataset: {type: d}, metrics: [{type: m, value: 1}]}\n---\n"
    )
    assert "taken over" not in cli("cards", "import", model, str(readme), "--card-only").out
    cli("versions", "create", model)
    taken = cli("cards", "import", model, str(readme), "--version", f"{model}@1")
    assert "taken over  task" in taken.out
    assert ["recorded", "1"] in taken.table()
    assert taken.err == 'warning: tags[0]: "A B" cannot be the key of a label\n'
    readme.write_bytes(b"\xff")
    assert "is not UTF-8" in cli("cards", "import", model, str(readme)).err
    readme.write_text("---\na: [\n---\n")
    assert "line" in cli("cards", "import", model, str(readme)).err


def test_deployments(cli: Run) -> None:
    """
    A deployment is registered, moves only as it may, and is found by its environment.
    """
    model, name, place = new_id("m"), new_id("d"), new_id("edge")
    cli("models", "create", model)
    cli("versions", "create", model)
    cli("versions", "finalize", f"{model}@1")
    assert cli("deployments", "create", name, f"{model}@1", "--environment", place, "--replicas", "2").code == 0
    assert "rolling_out" in cli("deployments", "status", name, "rolling_out", "--message", "go").out
    wrong = cli("deployments", "status", name, "pending")
    assert (wrong.code, "ILLEGAL_TRANSITION" in wrong.err) == (5, True)
    assert cli("deployments", "list", "--environment", place).table()[1][:3] == [name, place, "rolling_out"]
    assert f"{model}/versions/1" in cli("deployments", "get", f"default/{name}").out
    cli("versions", "create", model)
    cli("versions", "finalize", f"{model}@2")
    changed = cli("deployments", "update", name, "--version", f"{model}@2", "--replicas", "3", "--label", "a=b").table()
    assert ["replicas", "3"] in changed
    assert ["labels", "a=b"] in changed
    assert cli("deployments", "list", "--version", f"{model}@2", "--state", "rolling_out").table()[1][0] == name
    assert cli("deployments", "list", "--version", f"{model}@1").err == "no deployments\n"
    assert cli("deployments", "update", name).code == 1
    assert "DEPLOYMENT_ACTIVE" in cli("deployments", "delete", name).err
    assert cli("deployments", "status", name, "retired").code == 0
    assert cli("deployments", "delete", name).code == 0
    assert "DEPLOYMENT_NOT_FOUND" in cli("deployments", "get", name).err


def test_audit(cli: Run) -> None:
    """
    Who did what to a model is listed, the newest first, with what changed.
    """
    model = new_id("m")
    cli("models", "create", model, "--owner", "ada")
    cli("models", "update", model, "--owner", "bob")
    rows = cli("audit", f"namespaces/default/models/{model}").out.splitlines()
    assert "UpdateModel" in rows[1]
    assert 'owner="bob"' in rows[1]
    assert "CreateModel" in rows[2]
    assert cli("audit", "--action", "Nothing").out == ""
    assert cli("audit", f"namespaces/default/models/{model}", "--until", "2020-01-01").out == ""


def test_the_cache(cli: Run) -> None:
    """
    The cache shows its state and its namespaces, is warmed up and emptied.
    """
    shown = cli("cache", "status").out
    assert "closed" in shown
    assert "changes of registry  revision " in shown
    assert cli("cache", "warm", "--keys", "10").out.startswith("loaded")
    assert cli("cache", "flush", "--shared").out.startswith("dropped")
    assert cli("--json", "cache", "stats", "shared").messages()
    assert cli("cache", "stats", "nonsense").code == 2
