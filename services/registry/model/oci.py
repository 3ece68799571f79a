"""
Versions as OCI artifacts of the ModelPack specification (https://github.com/modelpack/model-spec): one layer per file,
whose digest is that of the file.

Manifest and configuration have to have the same bytes for ever, because clients name them by their digest. The
artifacts of a READY version do not change; what does is taken down as its `facts` when it becomes READY. So both are
rendered from facts and artifacts whenever they are asked for, and nothing here may change what is rendered from given
ones: tests/test_oci.py has the digests of examples.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

from services.chassis.errors import FailedPrecondition
from services.ledger.model.calls import Missing
from services.registry.model.models import ModelDraft
from services.registry.model.names import ModelName, VersionName
from services.registry.model.versions import Artifact, Version

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: Clients accept 4 MiB (distribution-spec, "Pushing Manifests"); a message with it has to fit into as many.
MOST_MANIFEST: Final = 4_000_000
#: What stands for the digest of a manifest that would be larger.
TOO_LARGE: Final = ""

_ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_LAYER = "application/vnd.cncf.model.{}.v1.raw"
#: The layer of a version without files (image-spec, "Guidance for an Empty Descriptor").
EMPTY: Final = b"{}"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"

_WEIGHTS = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".ggml": "ggml",
    ".onnx": "onnx",
    ".pt": "pt",
    ".pth": "pt",
    ".ckpt": "pt",
    ".bin": "pt",
    ".h5": "h5",
    ".keras": "keras",
    ".tflite": "tflite",
    ".msgpack": "msgpack",
    ".pkl": "pickle",
    ".joblib": "pickle",
}
_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys((".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".txt", ".model", ".jinja"), "weight.config"),
    **dict.fromkeys((".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg"), "doc"),
    **dict.fromkeys((".py", ".sh", ".ipynb", ".c", ".cc", ".cpp", ".cu", ".go", ".js", ".rs", ".ts"), "code"),
    **dict.fromkeys((".parquet", ".arrow", ".csv", ".tsv", ".jsonl"), "dataset"),
}
_DOCUMENTS = re.compile(r"(readme|license|licence|notice|copying|changelog)([.-].*)?", re.IGNORECASE)
_UNITS = ("", "K", "M", "B", "T", "Q")


@dataclass(frozen=True, slots=True)
class OciRecord:
    """
    What is stored with a READY version.

    Args:
        facts: what its configuration says of it, apart from its files: a JSON object.
        digest: of its manifest, sha256:…; TOO_LARGE if that is.
        config_digest: of its configuration.
    """

    facts: str
    digest: str
    config_digest: str


@dataclass(frozen=True, slots=True)
class OciManifest:
    """
    A version's manifest.

    Args:
        version: its name.
        digest: of *content*.
        content: as it is served.
    """

    version: VersionName
    digest: str
    content: bytes


@dataclass(frozen=True, slots=True)
class OciBlob:
    """
    A blob of a model.

    Args:
        digest: of its bytes.
        size_bytes: how many there are.
        media_type: of the layer, or of the configuration.
        content: of a configuration; empty for a file.
    """

    digest: str
    size_bytes: int
    media_type: str
    content: bytes = b""


def record(model: ModelDraft, version: Version) -> OciRecord:
    """
    What is stored with a version that becomes READY.

    Args:
        model: its model, as it is now.
    """
    facts = _json(_facts(model, version)).decode()
    artifacts = version.draft.artifacts
    content, rendered = config(facts, artifacts), manifest(facts, artifacts)
    return OciRecord(facts, digest(rendered) if len(rendered) <= MOST_MANIFEST else TOO_LARGE, digest(content))


def config(facts: str, artifacts: Sequence[Artifact]) -> bytes:
    """
    A version's configuration.
    """
    digests = [f"sha256:{each.sha256}" for each in artifacts] or [digest(EMPTY)]
    return _json({**json.loads(facts), "modelfs": {"type": "layers", "diffIds": digests}})


def manifest(facts: str, artifacts: Sequence[Artifact]) -> bytes:
    """
    A version's manifest.
    """
    content = config(facts, artifacts)
    layers = [_layer(each) for each in artifacts]
    empty = {"mediaType": EMPTY_TYPE, "digest": digest(EMPTY), "size": len(EMPTY)}
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": _ARTIFACT_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest(content), "size": len(content)},
            "layers": layers or [empty],
        }
    )


def layer_type(path: str) -> str:
    """
    The media type of a file's layer, by its name.
    """
    name = path.rpartition("/")[2]
    kind = "doc" if _DOCUMENTS.fullmatch(name) else _KINDS.get(_suffix(name), "weight")
    return _LAYER.format(kind)


def digest(content: bytes) -> str:
    """
    As OCI writes it.
    """
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def no_blob(parent: ModelName, wanted: str, revision: int) -> Missing:
    """
    The error for a blob that no READY version of a model has.
    """
    return Missing("BLOB_UNKNOWN", parent, revision, message=f"no READY version of {parent} has the blob {wanted}")


def no_manifest(parent: ModelName, wanted: str, revision: int) -> Missing:
    """
    The error for the digest of a manifest that no READY version of a model has.
    """
    message = f"no READY version of {parent} has a manifest {wanted}"
    return Missing("VERSION_NOT_FOUND", parent, revision, message=message)


def check_rendered(name: VersionName, found: str | None) -> None:
    """
    Args:
        found: the digest that is stored with a READY version; None while it is not computed.

    Raises:
        FailedPrecondition: it is not computed yet, or the manifest is too large.
    """
    if found is None:
        raise FailedPrecondition(
            "OCI_MANIFEST_PENDING",
            f"the manifest of {name} is not computed yet: it is made in the background, retry in some minutes",
            metadata={"resource": str(name)},
        )
    if found == TOO_LARGE:
        raise FailedPrecondition(
            "OCI_MANIFEST_TOO_LARGE",
            f"the manifest of {name} would be larger than {MOST_MANIFEST} bytes, which no client of OCI registries "
            "accepts: pull it with `modelyard versions pull`, or store its small files as one archive",
            metadata={"resource": str(name)},
        )


def _facts(model: ModelDraft, version: Version) -> Mapping[str, object]:
    name, draft = version.name, version.draft
    labels = {**model.labels, **draft.labels}
    created = version.create_time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    descriptor = {
        "createdAt": created,
        "authors": [model.owner] if model.owner else [],
        "family": labels.get("family", ""),
        "name": f"{name.namespace}/{name.model}",
        "version": str(name.number),
        "title": model.display_name,
        "description": draft.description or model.description,
        "datasetsURL": list(draft.lineage.training_data),
        "revision": draft.lineage.git_commit,
        "licenses": [model.license] if model.license else [],
    }
    described = {
        "architecture": labels.get("architecture", ""),
        "format": _format(draft.artifacts),
        "paramSize": _param_size(model.parameter_count),
        "precision": labels.get("precision", ""),
        "quantization": labels.get("quantization", ""),
    }
    return {"descriptor": _set(descriptor), "config": _set(described)}


def _set(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _format(artifacts: Iterable[Artifact]) -> str:
    """
    The format of the largest file of weights.
    """
    best = ("", -1)
    for each in artifacts:
        found = _WEIGHTS.get(_suffix(each.path.rpartition("/")[2]), "")
        if found and each.size_bytes > best[1]:
            best = (found, each.size_bytes)
    return best[0]


def _suffix(name: str) -> str:
    """
    The extension of a file's name in lower case, with its dot. (pathlib's takes four times as long.)
    """
    place = name.rfind(".")
    return name[place:].lower() if 0 < place < len(name) - 1 else ""


def _param_size(count: int) -> str:
    """
    A number of parameters as ModelPack writes it: one digit after the point at most, with a unit.
    """
    if count < 1000:
        # There is no way to write it: 0.1K is the least.
        return f"{round(count / 1000, 1):g}K" if count >= 50 else ""
    unit, scale = 1, 1000
    # What is rounded to 1000 is 1 of the next unit.
    while round(count / scale, 1) >= 1000 and unit < len(_UNITS) - 1:
        unit, scale = unit + 1, scale * 1000
    return f"{round(count / scale, 1):.1f}".removesuffix(".0") + _UNITS[unit]


def _layer(artifact: Artifact) -> Mapping[str, object]:
    return {
        "mediaType": layer_type(artifact.path),
        "digest": f"sha256:{artifact.sha256}",
        "size": artifact.size_bytes,
        # oras names files by the title, tools of ModelPack by the path.
        "annotations": {"org.cncf.model.filepath": artifact.path, "org.opencontainers.image.title": artifact.path},
    }


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
