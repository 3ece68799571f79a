"""
What the clients of the doors find: a small model in two versions, one of 500 files, and one in a private namespace.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import modelyard
from embedded.stack import Stack
from modelyard.registry.v1 import aliases_pb2, models_pb2, namespaces_pb2, policies_pb2, versions_pb2
from modelyard.tokens import make_key, mint
from services.doors.tests.conftest import store

READ: Final = ("registry.read", "assets.read")
_WRITE: Final = (*READ, "registry.write", "assets.write")
_HOUR: Final = 3600.0


def _weights(count: int) -> bytes:
    tensors = {"weight": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + hashlib.shake_128(b"weights").digest(4 * count)


def _bert(count: int) -> dict[str, bytes]:
    words = {"[UNK]": 0, "hello": 1, "world": 2}
    tokenizer: dict[str, object] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }  # fmt: skip
    config = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 3}
    return {
        "README.md": b"---\nlicense: mit\n---\n# second\n",
        "config.json": json.dumps(config).encode(),
        "model.safetensors": _weights(count),
        "sub/a b%c.txt": b"strange",
        "sub/empty": b"",
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}).encode(),
    }


@dataclass(frozen=True, slots=True)
class Published:
    """
    What is published, and who may read it.

    Args:
        stack: the suite.
        setting: for the clients' scripts.
    """

    stack: Stack
    setting: Mapping[str, Any]


def publish(stack: Stack, namespace: str, many: int = 500, numbers: int = 3_000_000) -> Published:
    """
    Publish the models.

    Args:
        stack: the suite; with access control, if it is on.
        namespace: a new one. The private one is called `{namespace}-private`.
        many: files of the model with many small ones.
        numbers: in the weights of the small model, of four bytes each.
    """
    guarded = stack.settings.access != "off"
    tokens = _tokens(stack) if guarded else dict.fromkeys(("token", "stranger", "scopeless", "forged"), "")
    files, first = _bert(numbers), b"# first\n"
    with modelyard.connect(stack.gateway, _token(stack, "ann", _WRITE) if guarded else None) as yard:
        yard.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=namespace))
        version(yard, namespace, "bert", {**files, "README.md": first}, alias="production", task="fill-mask")
        version(yard, namespace, "bert", files)
        if many:
            version(yard, namespace, "many", {f"d{n % 10}/f{n:03}.txt": b"%d" % n for n in range(many)})
        private = f"{namespace}-private"
        if guarded:
            yard.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=private))
            _hide(stack, private)
            version(yard, private, "secret", {"a.txt": b"private"})
    return Published(
        stack,
        {
            "gateway": stack.gateway,
            "bert": f"{namespace}/bert",
            "sizes": {path: len(content) for path, content in files.items()},
            "digests": {path: hashlib.sha256(content).hexdigest() for path, content in files.items()},
            "first_readme": first.decode(),
            "many": f"{namespace}/many",
            "many_files": many,
            "private": f"{private}/secret",
            "subject": "ann",
            **tokens,
        },
    )


def version(
    yard: modelyard.Client, namespace: str, model: str, files: Mapping[str, bytes], *, alias: str = "", task: str = ""
) -> str:
    """
    A version of a model, which is created with its first version.

    Returns:
        The version's name.
    """
    parent = f"namespaces/{namespace}"
    name = f"{parent}/models/{model}"
    if name not in {each.name for each in yard.models.ListModels(models_pb2.ListModelsRequest(parent=parent)).models}:
        yard.models.CreateModel(
            models_pb2.CreateModelRequest(
                parent=parent, model_id=model, model=models_pb2.Model(owner="tests", task=task, license="mit")
            )
        )
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(lambda content: store(yard, content), files.values()))
    artifacts = [
        versions_pb2.Artifact(path=path, sha256=digest, size_bytes=len(content))
        for (path, content), digest in zip(files.items(), digests, strict=True)
    ]
    request = versions_pb2.CreateVersionRequest(parent=name, version=versions_pb2.Version(artifacts=artifacts))
    made = yard.versions.CreateVersion(request).name
    yard.versions.FinalizeVersion(versions_pb2.FinalizeVersionRequest(name=made))
    if alias:
        move = aliases_pb2.MoveAliasesRequest.Move(alias_id=alias, version=made)
        yard.aliases.MoveAliases(aliases_pb2.MoveAliasesRequest(parent=name, moves=[move]))
    return made


def _hide(stack: Stack, namespace: str) -> None:
    binding = policies_pb2.Policy.Binding(role=policies_pb2.Policy.ROLE_OWNER, members=["user:ann"])
    policy = policies_pb2.Policy(name=f"namespaces/{namespace}/policy", bindings=[binding], private=True)
    with modelyard.connect(stack.gateway, _token(stack, "root", ("admin",))) as root:
        root.policies.SetPolicy(policies_pb2.SetPolicyRequest(policy=policy))


def _token(stack: Stack, subject: str, scopes: tuple[str, ...]) -> str:
    return mint(stack.settings.state / "access" / "key.pem", subject, scopes, _HOUR)


def _tokens(stack: Stack) -> dict[str, str]:
    foreign = stack.settings.state / "foreign.pem"
    if not foreign.exists():
        make_key(foreign)
    return {
        "token": _token(stack, "ann", READ),
        "stranger": _token(stack, "stranger", READ),
        "scopeless": _token(stack, "ann", ("cache.read",)),
        "forged": mint(foreign, "ann", READ, _HOUR),
    }
