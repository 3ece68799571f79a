"""
What people do with clients of the Hugging Face Hub, unmodified. It runs in an environment of such a client, as a script
of its own: nothing of this project can be imported there.

    python hub_flows.py < setting.json

The setting says what is published (tests/doors/repositories.py). The only line on standard output is a JSON object: by
the name of each flow "ok", what went wrong, or "-" for what this client does not have.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from socket import SHUT_WR, create_connection, create_server, socket
from typing import Any

GIVEN: dict[str, Any] = json.load(sys.stdin)
HOME = tempfile.mkdtemp(prefix="hub-")
# They are read when the library is imported.
os.environ.update(
    HF_ENDPOINT=f"http://{GIVEN['gateway']}",
    HF_HOME=HOME,
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    NO_COLOR="1",
)
if GIVEN["token"]:
    os.environ["HF_TOKEN"] = GIVEN["token"]
else:
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"

import huggingface_hub as hub  # noqa: E402
from huggingface_hub import errors  # noqa: E402

API = hub.HfApi()
BERT: str = GIVEN["bert"]
SIZES: dict[str, int] = GIVEN["sizes"]
DIGESTS: dict[str, str] = GIVEN["digests"]
FLOWS: list[tuple[str, Callable[[], None]]] = []


class AbsentError(Exception):
    """
    This client does not have it.
    """


def flow(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(run: Callable[[], None]) -> Callable[[], None]:
        FLOWS.append((name, run))
        return run

    return register


def same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"{found!r} and not {wanted!r}")


def raises(kind: type[Exception], status: int, run: Callable[[], Any]) -> None:
    try:
        found = run()
    except kind as error:
        response = getattr(error, "response", None)
        same(getattr(response, "status_code", None), status)
        return
    raise AssertionError(f"no {kind.__name__} but {found!r}")


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fresh() -> str:
    return tempfile.mkdtemp(dir=HOME)


@flow("model_info")
def _() -> None:
    info = API.model_info(BERT, files_metadata=True)
    same((len(info.sha or ""), info.id, info.pipeline_tag), (40, BERT, "fill-mask"))
    same({each.rfilename: each.size for each in info.siblings or []}, SIZES)


@flow("list_models")
def _() -> None:
    author = BERT.partition("/")[0]
    same(BERT in [each.id for each in API.list_models(author=author)], True)
    same([each.id for each in API.list_models(author=author, filter="fill-mask")], [BERT])


@flow("list_repo_files")
def _() -> None:
    same(sorted(API.list_repo_files(BERT)), sorted(SIZES))


@flow("list_repo_tree")
def _() -> None:
    found = list(API.list_repo_tree(BERT, recursive=True))
    same({each.path: each.size for each in found if hasattr(each, "size")}, SIZES)
    same([each.path for each in found if not hasattr(each, "size")], ["sub"])
    same(
        sorted(each.path for each in API.list_repo_tree(BERT, "sub")), sorted(p for p in SIZES if p.startswith("sub/"))
    )


@flow("list_repo_refs")
def _() -> None:
    refs, sha = API.list_repo_refs(BERT), API.model_info(BERT).sha
    same({each.name: each.target_commit for each in refs.branches}["main"], sha)
    same([each.name for each in refs.tags].count("v1"), 1)


@flow("list_repo_commits")
def _() -> None:
    same(API.list_repo_commits(BERT)[0].commit_id, API.model_info(BERT).sha)


@flow("get_paths_info")
def _() -> None:
    found = API.get_paths_info(BERT, ["sub", "config.json", "nothing"])
    same(sorted(each.path for each in found), ["config.json", "sub"])


@flow("exists: repo, revision, file")
def _() -> None:
    same((API.repo_exists(BERT), API.repo_exists(BERT + "-nothing")), (True, False))
    same((API.revision_exists(BERT, "v1"), API.revision_exists(BERT, "nothing")), (True, False))
    same((API.file_exists(BERT, "config.json"), API.file_exists(BERT, "nothing")), (True, False))


@flow("hf_hub_download: every file")
def _() -> None:
    for path in SIZES:
        same(digest(hub.hf_hub_download(BERT, path)), DIGESTS[path])


@flow("hf_hub_download: to a folder")
def _() -> None:
    same(digest(hub.hf_hub_download(BERT, "model.safetensors", local_dir=fresh())), DIGESTS["model.safetensors"])


@flow("snapshot_download")
def _() -> None:
    found = Path(hub.snapshot_download(BERT, cache_dir=fresh()))
    same({str(each.relative_to(found)) for each in found.rglob("*") if each.is_file()}, set(SIZES))
    for path in SIZES:
        same(digest(str(found / path)), DIGESTS[path])


@flow("snapshot_download: patterns")
def _() -> None:
    found = Path(hub.snapshot_download(BERT, allow_patterns=["*.json"], ignore_patterns="tok*", cache_dir=fresh()))
    same([each.name for each in found.rglob("*") if each.is_file()], ["config.json"])


@flow("revisions: main, alias, v1, 1, ref, commit")
def _() -> None:
    newest, first = API.model_info(BERT).sha, API.model_info(BERT, revision="v1").sha
    assert newest != first
    for revision in (None, "main", "refs/heads/main", "v2", "2", newest):
        same(API.model_info(BERT, revision=revision).sha, newest)
    for revision in ("production", "1", first, str(first)[:8]):
        same(API.model_info(BERT, revision=revision).sha, first)
        same(Path(hub.hf_hub_download(BERT, "config.json", revision=revision)).parts[-2], first)
        same(Path(hub.hf_hub_download(BERT, "README.md", revision=revision)).read_text(), GIVEN["first_readme"])


@flow("HfFileSystem")
def _() -> None:
    files = hub.HfFileSystem()
    same(sorted(files.ls(BERT, detail=False)), sorted({f"{BERT}/{path.partition('/')[0]}" for path in SIZES}))
    same(hashlib.sha256(files.cat(f"{BERT}/config.json")).hexdigest(), DIGESTS["config.json"])
    same(files.glob(f"{BERT}/*.safetensors"), [f"{BERT}/model.safetensors"])
    whole = Path(hub.hf_hub_download(BERT, "model.safetensors")).read_bytes()
    with files.open(f"{BERT}/model.safetensors", block_size=1 << 16) as file:
        file.seek(len(whole) // 2)
        same(file.read(100), whole[len(whole) // 2 :][:100])
    same(files.exists(f"{BERT}@v1/config.json"), True)
    same(files.exists(f"{BERT}/nothing"), False)


@flow("safetensors metadata")
def _() -> None:
    same(list(API.get_safetensors_metadata(BERT).weight_map), ["weight"])


def command(*words: str, **more: str) -> str:
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), *words],
        env={**os.environ, **more}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise AssertionError(f"hf {words[0]}: {ran.stderr.strip()[-300:]}")
    return ran.stdout


@flow("hf download")
def _() -> None:
    folder = fresh()
    command("download", BERT, "--revision", "v2", "--local-dir", folder)
    for path in SIZES:
        same(digest(f"{folder}/{path}"), DIGESTS[path])


@flow("hf auth whoami")
def _() -> None:
    if not GIVEN["token"]:
        raise AbsentError
    same(API.whoami()["name"], GIVEN["subject"])
    same(GIVEN["subject"] in command("auth", "whoami"), True)


@flow("transformers: config and tokenizer")
def _() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise AbsentError
    from transformers import AutoConfig, AutoTokenizer

    same(AutoConfig.from_pretrained(BERT).hidden_size, 32)
    tokenizer = AutoTokenizer.from_pretrained(BERT, revision="production")
    same(tokenizer("hello world")["input_ids"], [1, 2])


@flow("tokenizers: from_pretrained")
def _() -> None:
    if importlib.util.find_spec("tokenizers") is None:
        raise AbsentError
    from tokenizers import Tokenizer

    same(Tokenizer.from_pretrained(BERT).encode("world hello").ids, [2, 1])


@flow("missing: file")
def _() -> None:
    cache = fresh()
    raises(errors.EntryNotFoundError, 404, lambda: hub.hf_hub_download(BERT, "nothing.txt", cache_dir=cache))
    # It is remembered with its commit, and not asked for again.
    known = hub.try_to_load_from_cache(BERT, "nothing.txt", cache_dir=cache)
    same(known, hub._CACHED_NO_EXIST)


@flow("missing: repository")
def _() -> None:
    raises(errors.RepositoryNotFoundError, 404, lambda: hub.hf_hub_download(BERT + "-nothing", "config.json"))
    raises(errors.RepositoryNotFoundError, 404, lambda: API.model_info(BERT + "-nothing"))


@flow("missing: revision")
def _() -> None:
    raises(errors.RevisionNotFoundError, 404, lambda: hub.hf_hub_download(BERT, "config.json", revision="nothing"))
    raises(errors.RevisionNotFoundError, 404, lambda: API.model_info(BERT, revision="nothing"))


@flow("offline, from the cache")
def _() -> None:
    hub.snapshot_download(BERT)
    code = (
        f"import huggingface_hub as h; print(h.snapshot_download({BERT!r}), h.hf_hub_download({BERT!r}, 'config.json'))"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120, check=False
    )
    same((ran.returncode, ran.stderr[-300:] if ran.returncode else ""), (0, ""))


class Cut:
    """
    A way to the gateway on which the first long download breaks in the middle.
    """

    def __init__(self, after: int) -> None:
        self.left, self.breaks, self.after = after, 0, after
        self.listener = create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            near, _ = self.listener.accept()
            host, _, port = GIVEN["gateway"].rpartition(":")
            far = create_connection((host, int(port)))
            threading.Thread(target=self.up, args=(near, far), daemon=True).start()
            threading.Thread(target=self.down, args=(far, near), daemon=True).start()

    def up(self, near: socket, far: socket) -> None:
        try:
            while data := near.recv(65536):
                self.requests.append(data)
                far.sendall(data)
            far.shutdown(SHUT_WR)
        except OSError:
            pass

    def down(self, far: socket, near: socket) -> None:
        try:
            while data := far.recv(65536):
                self.left -= len(data)
                if self.left < 0 and not self.breaks:
                    self.breaks += 1
                    near.close()
                    return
                near.sendall(data)
            near.shutdown(SHUT_WR)
        except OSError:
            pass


@flow("a broken download goes on")
def _() -> None:
    # Clients write 10 MiB at a time: they go on behind the first of them.
    cut = Cut(11_500_000)
    endpoint = f"http://127.0.0.1:{cut.listener.getsockname()[1]}"
    found = hub.hf_hub_download(BERT, "model.safetensors", endpoint=endpoint, cache_dir=fresh())
    same((digest(found), cut.breaks), (DIGESTS["model.safetensors"], 1))
    ranges = [line for data in cut.requests for line in data.lower().split(b"\r\n") if line.startswith(b"range:")]
    same(bool(ranges) and not ranges[-1].endswith(b"bytes=0-"), True)


@flow("500 small files")
def _() -> None:
    began = time.monotonic()
    found = Path(hub.snapshot_download(GIVEN["many"], cache_dir=fresh(), max_workers=8))
    seconds = time.monotonic() - began
    same(len([each for each in found.rglob("*") if each.is_file()]), GIVEN["many_files"])
    NOTES["500 small files"] = f"{GIVEN['many_files'] / seconds:.0f} files/s"


@flow("writes are refused in one sentence")
def _() -> None:
    raises(errors.HfHubHTTPError, 501, lambda: API.create_repo(BERT.partition("/")[0] + "/new"))
    try:
        API.create_repo(BERT.partition("/")[0] + "/new")
    except errors.HfHubHTTPError as error:
        same("modelyard versions push" in str(error), True)


@flow("a wrong token")
def _() -> None:
    if not GIVEN["token"]:
        raise AbsentError
    raises(errors.HfHubHTTPError, 401, lambda: API.model_info(BERT, token="rubbish"))
    raises(errors.HfHubHTTPError, 401, lambda: API.model_info(BERT, token=GIVEN["forged"]))


@flow("no token")
def _() -> None:
    if not GIVEN["token"]:
        raise AbsentError
    raises(errors.HfHubHTTPError, 401, lambda: API.model_info(BERT, token=False))


@flow("a token without the scope")
def _() -> None:
    if not GIVEN["token"]:
        raise AbsentError
    raises(errors.HfHubHTTPError, 403, lambda: API.model_info(BERT, token=GIVEN["scopeless"]))


@flow("a private namespace")
def _() -> None:
    if not GIVEN["token"]:
        raise AbsentError
    stranger = GIVEN["stranger"]
    same(digest(hub.hf_hub_download(GIVEN["private"], "a.txt")), hashlib.sha256(b"private").hexdigest())
    for read in (
        lambda: API.model_info(GIVEN["private"], token=stranger),
        lambda: hub.hf_hub_download(GIVEN["private"], "a.txt", token=stranger, cache_dir=fresh()),
        lambda: hub.snapshot_download(GIVEN["private"], token=stranger, cache_dir=fresh()),
    ):
        raises(errors.RepositoryNotFoundError, 404, read)
    author = GIVEN["private"].partition("/")[0]
    same(list(API.list_models(author=author, token=stranger)), [])
    same([each.id for each in API.list_models(author=author)], [GIVEN["private"]])


NOTES: dict[str, str] = {}


def main() -> None:
    only, found = GIVEN.get("only"), {}
    for name, run in FLOWS:
        if only and name not in only:
            continue
        try:
            run()
            found[name] = "ok"
        except AbsentError:
            found[name] = "-"
        except BaseException as error:
            found[name] = f"{type(error).__name__}: {error}"[:600]
            if isinstance(error, KeyboardInterrupt):
                raise
    print(json.dumps({"version": hub.__version__, "flows": found, "notes": NOTES}))


main()
