"""
The main job on real data, every step verified: `make demo`.

Starts the suite on free ports with a state folder of its own, does what a team does with a registry, and prints what
each step took. Exits 0 only when every step was verified.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import field_mask_pb2

import modelyard
from embedded.stack import Stack, StackSettings
from examples import timm, weights
from modelyard.cdn.v1 import assets_pb2
from modelyard.cli.progress import ProgressBar
from modelyard.registry.v1 import aliases_pb2, models_pb2, versions_pb2

STATE = Path(__file__).resolve().parent.parent / ".modelyard" / "demo"
NAMESPACE = "namespaces/default"


class NotVerifiedError(Exception):
    """
    A step ended, but not as it must.
    """


def verify(holds: object, what: str) -> None:
    """
    Raises:
        NotVerifiedError: *holds* is false; *what* says what should have been true.
    """
    if not holds:
        raise NotVerifiedError(what)


@dataclass(slots=True)
class Steps:
    """
    The steps as they end, for the table.
    """

    rows: list[tuple[str, str, float]] = field(default_factory=list)

    def run(self, name: str, step: Callable[[], str]) -> None:
        """
        Run a step and note what it says and how long it took, in seconds.
        """
        began = time.perf_counter()
        found = step()
        self.rows.append((name, found, time.perf_counter() - began))
        print(f"  ✓ {name:<44} {self.rows[-1][2]:>7.2f} s   {found}", flush=True)


class Demo:
    """
    The steps, in order; each one verifies what it did.

    Args:
        yard: a client of a suite's gateway.
        weights: what to upload.
        folder: where downloads go.
        kill_cache: makes the cache be gone.
    """

    def __init__(
        self, yard: modelyard.Client, files: weights.Weights, folder: Path, kill_cache: Callable[[], None]
    ) -> None:
        self._kill_cache = kill_cache
        self._yard = yard
        self._weights = files
        self._folder = folder
        self._assets: list[assets_pb2.Asset] = []
        self._model = f"{NAMESPACE}/models/silero-vad"
        self._revision = 0

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """
        The steps by name.
        """
        return [
            ("import the timm leaderboard", self.import_leaderboard),
            ("upload weights", self.upload),
            ("register a version of them", self.register),
            ("move the alias `production` to it", self.move_alias),
            ("search: convnext imagenet, top-1 > 85", self.search),
            ("read a model twice: the second from the cache", self.read_twice),
            ("update it: the next read is fresh", self.update),
            ("download by alias and verify the sha256", self.download),
            ("kill the cache: reads still work", self.kill_cache),
        ]

    def import_leaderboard(self) -> str:
        """
        All models with their versions and results; counted again afterwards.
        """
        models = results = 0
        with ProgressBar("    importing", unit="models") as progress:
            for answer in self._yard.imports.ImportModels(timm.batches(NAMESPACE)):
                models += answer.created_models
                results += answer.recorded_evaluations
                progress(models, 1556)
        listed = sum(1 for _ in self._all_models())
        verify(models == listed == 1556, f"1,556 models imported and listed, not {models} and {listed}")
        verify(results == len(timm.results()), f"{len(timm.results())} results recorded, not {results}")
        return f"{models:,} models, {results:,} results"

    def _all_models(self) -> Iterator[models_pb2.Model]:
        request = models_pb2.ListModelsRequest(parent=NAMESPACE, page_size=1000)
        while True:
            page = self._yard.models.ListModels(request)
            yield from page.models
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def upload(self) -> str:
        """
        Each file under its own digest.
        """
        for file in self._weights.files:
            with ProgressBar(f"    uploading {file.name}") as progress:
                asset = self._yard.upload_file(file, progress=progress)
            verify(asset.sha256 == hashlib.sha256(file.read_bytes()).hexdigest(), f"the digest of {file.name}")
            self._assets.append(asset)
        size = sum(asset.size_bytes for asset in self._assets) / 1e6
        return f"{len(self._assets)} file(s), {size:.1f} MB, {self._weights.source}"

    def register(self) -> str:
        """
        A model, a version that points at the assets, finalized.
        """
        parent, _, model_id = self._model.rpartition("/models/")
        model = models_pb2.Model(task="voice-activity-detection", framework="pytorch", license=weights.LICENSE)
        self._yard.models.CreateModel(
            models_pb2.CreateModelRequest(parent=parent, model_id=model_id, model=model, request_id="demo-model")
        )
        artifacts = [
            versions_pb2.Artifact(path=file.name, sha256=asset.sha256, size_bytes=asset.size_bytes)
            for file, asset in zip(self._weights.files, self._assets, strict=True)
        ]
        version = self._yard.versions.CreateVersion(
            versions_pb2.CreateVersionRequest(parent=self._model, version=versions_pb2.Version(artifacts=artifacts))
        )
        version = self._yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=version.name))
        verify(version.state == versions_pb2.Version.STATE_READY, "the version is READY")
        return f"version {version.number}, READY"

    def move_alias(self) -> str:
        """
        `production` points at version 1.
        """
        move = aliases_pb2.MoveAliasesRequest.Move(alias_id="production", version=f"{self._model}/versions/1")
        self._yard.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=self._model, moves=[move]))
        alias = self._yard.aliases.GetAlias(aliases_pb2.GetAliasRequest(name=f"{self._model}/aliases/production"))
        verify(alias.version == f"{self._model}/versions/1", f"production points at version 1, not {alias.version}")
        return "production → version 1"

    def search(self) -> str:
        """
        Every hit is a convnext (or convnextv2: beginnings count) whose top-1 on ImageNet is above 85, none is missing,
        and those with the whole word come first; mistyped, the search finds all of those, and only convnexts.
        """
        request = models_pb2.SearchModelsRequest(
            parent=NAMESPACE, query="convnext imagenet", filter="evaluations.imagenet.top1 > 85", page_size=200
        )
        found = [model.name.rpartition("/")[2] for model in self._yard.models.SearchModels(request).models]
        above = {
            result.model: re.split("[._-]", result.model)
            for result in timm.results()
            if (result.dataset, result.metric) == ("imagenet", "top1") and result.value > 85
        }
        wanted = {name for name, words in above.items() if any(word.startswith("convnext") for word in words)}
        wrong = sorted(wanted ^ set(found))[:3]
        verify(wanted == set(found), f"the {len(wanted)} convnexts above 85 %, not {len(found)}: {wrong}")
        whole = ["convnext" in above[name] for name in found]
        verify(whole == sorted(whole, reverse=True), "the whole word comes before its beginnings")
        request.query = "convnxt imagnet"
        mended = {model.name.rpartition("/")[2] for model in self._yard.models.SearchModels(request).models}
        whole_words = {name for name in found if "convnext" in above[name]}
        verify(whole_words <= mended <= wanted, "two typos find the whole words")
        return f"{len(found)} models"

    def read_twice(self) -> str:
        """
        The first read fills the cache, the second is answered by it, and both say the same.
        """
        (first, before), (second, after) = self._read(), self._read()
        verify(first == second, "both reads say the same")
        verify(after in {"near", "shared"}, f"the second read came from the cache, not from {after!r}")
        return f"x-cache: {before}, then {after}"

    def _read(self, name: str = "") -> tuple[models_pb2.Model, str]:
        request = models_pb2.GetModelRequest(name=name or self._model)
        model, call = self._yard.models.GetModel.with_call(request)
        return model, str(dict(call.trailing_metadata()).get("x-cache", ""))

    def update(self) -> str:
        """
        A read after a write never says what was before it.
        """
        model = models_pb2.Model(name=self._model, description=f"Updated at {time.time_ns()}")
        mask = field_mask_pb2.FieldMask(paths=["description"])
        self._yard.models.UpdateModel(models_pb2.UpdateModelRequest(model=model, update_mask=mask))
        read, source = self._read()
        verify(read.description == model.description, f"the next read is fresh, not {read.description!r}")
        self._revision = read.revision
        return f"revision {read.revision}, x-cache: {source}"

    def download(self) -> str:
        """
        From the alias to the version to the bytes, and their digest again.
        """
        alias = self._yard.aliases.GetAlias(aliases_pb2.GetAliasRequest(name=f"{self._model}/aliases/production"))
        version = self._yard.versions.GetVersion(versions_pb2.GetVersionRequest(name=alias.version))
        for artifact in version.artifacts:
            target = self._folder / artifact.path
            self._yard.download_file(f"assets/{artifact.sha256}", target)
            digest = hashlib.sha256(target.read_bytes()).hexdigest()
            verify(digest == artifact.sha256, f"the digest of {artifact.path}")
        return ", ".join(f"{artifact.path} {artifact.sha256[:12]}…" for artifact in version.artifacts)

    def kill_cache(self) -> str:
        """
        Not one of a hundred reads fails when the cache is gone, and each is right.
        """
        self._kill_cache()
        sources = set()
        for _ in range(100):
            model, source = self._read()
            verify(model.revision == self._revision, "reads without the cache are right")
            sources.add(source or "origin")
        verify(sources == {"origin"}, f"all reads came from the origin, not from {sources}")
        return "100 reads, all from the origin"


def main() -> int:
    """
    Run the demo.

    Returns:
        The exit code: 0 when every step was verified.
    """
    steps = Steps()
    shutil.rmtree(STATE, ignore_errors=True)
    print("Modelyard demo: every step is verified")
    files = weights.fetch()
    if not files.real:
        print(f"  ! using weights {files.source}")
    stack = Stack(StackSettings(state=STATE, gateway_port=0))
    try:
        steps.run("start the suite", lambda: _start(stack))
        with modelyard.connect(stack.gateway) as yard, tempfile.TemporaryDirectory() as folder:
            for name, step in Demo(yard, files, Path(folder), lambda: stack.kill("cache")).steps():
                steps.run(name, step)
    except NotVerifiedError as failure:
        print(f"  ✗ not verified: {failure}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"  ✗ {modelyard.explain(error)}", file=sys.stderr)
        return 1
    finally:
        stack.stop()
        shutil.rmtree(STATE, ignore_errors=True)
    print(f"\n{len(steps.rows)} steps verified in {sum(seconds for _, _, seconds in steps.rows):.1f} s")
    return 0


def _start(stack: Stack) -> str:
    stack.start()
    return f"PostgreSQL, Valkey, S3, registry, cache, cdn; gateway on {stack.gateway}"


if __name__ == "__main__":
    sys.exit(main())
