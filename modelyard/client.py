"""
The threaded client.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc

from modelyard._channel import DEFAULT_DEADLINE, Session, channel_options, connection
from modelyard._closing import ClosingChannel
from modelyard._interceptor import Interceptor
from modelyard._token import choose_token
from modelyard._transfer import Transfer
from modelyard.cache.v1 import cache_pb2_grpc
from modelyard.cdn.v1 import assets_pb2, assets_pb2_grpc, delivery_pb2_grpc, uploads_pb2_grpc
from modelyard.cdn.v1 import changes_pb2_grpc as asset_changes_pb2_grpc
from modelyard.registry.v1 import (
    aliases_pb2_grpc,
    audit_pb2_grpc,
    cards_pb2_grpc,
    changes_pb2_grpc,
    deployments_pb2_grpc,
    evaluations_pb2_grpc,
    imports_pb2_grpc,
    models_pb2_grpc,
    namespaces_pb2_grpc,
    versions_pb2_grpc,
)
from modelyard.transfer import (
    RANGED_BYTES,
    ProgressCallback,
    RangeDownload,
    StreamDownload,
    UploadSource,
    no_progress,
    upload,
)


def connect(
    target: str | None = None,
    token: str | None = None,
    *,
    token_file: str | os.PathLike[str] | None = None,
    deadline: float | None = DEFAULT_DEADLINE,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Client:
    """
    A client of the gateway, or of one service. The connection is made with the first call.

    Args:
        target: host:port, or an http:// or https:// address; https means TLS. By default what the environment says
            (MODELYARD_TARGET, and with it MODELYARD_CA_FILE, MODELYARD_CERT_FILE and MODELYARD_KEY_FILE), else
            127.0.0.1:8080. A proxy of the environment (https_proxy, no_proxy) is used as gRPC does, but never for
            this machine's own loopback.
        token: the caller's identity, sent as a bearer token; empty for none. By default what the environment says
            (MODELYARD_TOKEN, or MODELYARD_TOKEN_FILE).
        token_file: a file that holds it, read again when it changes; in place of *token*.
        deadline: seconds that a unary call may take unless it is given a `timeout` of its own; None means forever.
            Streams have no deadline but their own `timeout`.
        ca_file: enables TLS: the CA bundle (PEM) that the server's certificate is verified against. Without it, an
            https:// target uses the system's.
        cert_file, key_file: mean TLS: a certificate of your own and its key, for servers that ask for one. All three
            files are read once, now.
        credentials: for TLS, in place of files.
        options: further channel options, as in `grpc.insecure_channel`.

    Raises:
        OSError: a file cannot be read.
        ValueError: *target* is no address (the text says why), a token or credentials are given twice, a token is none,
            or a file for TLS is not PEM.

    Example:
        with modelyard.connect("127.0.0.1:8080", token) as yard:
            asset = yard.upload_file("model.safetensors")
    """
    address, credentials = connection(target, credentials, ca_file, cert_file, key_file)
    merged = channel_options(address, options)
    channel = (
        grpc.insecure_channel(address, merged)
        if credentials is None
        else grpc.secure_channel(address, credentials, merged)
    )
    return Client(channel, Session(choose_token(token, token_file), deadline))


class Client:
    """
    The services of a Modelyard, as typed stubs; safe to use from several threads.

    Every call carries a request id, and the newest revision that this client has seen: it never reads from before what
    it wrote. Reads that find no server are retried; writes are not, unless you do (give them a `request_id`). Failed
    calls raise `grpc.RpcError`; `modelyard.explain` tells what went wrong.

    After a fork (`os.fork`, a `multiprocessing.Pool` that forks) the child makes a client of its own; the one of the
    parent goes on.

    Args:
        channel: a connection; closed with the client.
        session: what goes along with every call.
    """

    def __init__(self, channel: grpc.Channel, session: Session) -> None:
        self._channel = ClosingChannel(channel)
        self._session = session
        intercepted = grpc.intercept_channel(self._channel, Interceptor(session))
        self.namespaces = namespaces_pb2_grpc.NamespaceServiceStub(intercepted)
        self.models = models_pb2_grpc.ModelServiceStub(intercepted)
        self.versions = versions_pb2_grpc.VersionServiceStub(intercepted)
        self.aliases = aliases_pb2_grpc.AliasServiceStub(intercepted)
        self.cards = cards_pb2_grpc.CardServiceStub(intercepted)
        self.evaluations = evaluations_pb2_grpc.EvaluationServiceStub(intercepted)
        self.deployments = deployments_pb2_grpc.DeploymentServiceStub(intercepted)
        self.audit = audit_pb2_grpc.AuditServiceStub(intercepted)
        self.changes = changes_pb2_grpc.ChangeServiceStub(intercepted)
        self.imports = imports_pb2_grpc.ImportServiceStub(intercepted)
        self.assets = assets_pb2_grpc.AssetServiceStub(intercepted)
        self.asset_changes = asset_changes_pb2_grpc.ChangeServiceStub(intercepted)
        self.uploads = uploads_pb2_grpc.UploadServiceStub(intercepted)
        self.delivery = delivery_pb2_grpc.DeliveryServiceStub(intercepted)
        self.keyvalue = cache_pb2_grpc.KeyValueServiceStub(intercepted)
        self._transfer = Transfer(self)
        self.cache_admin = cache_pb2_grpc.CacheAdminServiceStub(intercepted)

    @property
    def revision(self) -> int:
        """
        The newest revision of the registry that this client has seen, 0 before the first answer.
        """
        return self._session.revision()

    def upload_file(
        self,
        path: str | os.PathLike[str] | UploadSource,
        *,
        media_type: str = "",
        owner: str = "",
        private: bool = False,
        progress: ProgressCallback = no_progress,
        hashing: ProgressCallback = no_progress,
    ) -> assets_pb2.Asset:
        """
        Store a file as an asset. Bytes that are stored already are not sent. Of a file above 8 MiB, the parts that came
        survive a break of any kind: call this again to resume with the first missing part.

        Args:
            path: of the file; or the file as an `UploadSource`, which is hashed and has a media type already.
            media_type: such as text/plain; empty means by the file's name.
            owner: owner whose quota is charged: the full name of a version, or static/{path}; empty charges none.
            private: restrict it to presigned URLs: /assets/{sha256} does not serve it.
            progress: called with the bytes that are there and the bytes in all.
            hashing: called with the bytes hashed and the bytes in all, before anything is sent.

        Raises:
            OSError: the file cannot be read.
            FileChangedError: the file changed meanwhile; nothing was stored under the digest that it had.
            grpc.RpcError: the upload failed for good, such as with UPLOAD_TAKEN_OVER when somebody else sends the same
                file, or too often without progress.
        """
        file = path if isinstance(path, UploadSource) else UploadSource.of(path, media_type, hashing)
        return self._transfer.carry_out(upload(file, owner=owner, private=private, progress=progress))

    def download_file(
        self, name: str | assets_pb2.Asset, path: str | os.PathLike[str], *, progress: ProgressCallback = no_progress
    ) -> assets_pb2.Asset:
        """
        Write an asset into a file, which appears complete and verified, or not at all. What an interrupted download
        left beside it is used again. A file above 32 MiB comes in four streams at a time.
        Of several downloads of it to the same path, in one process or in many, one does it and the others wait for it.

        Args:
            name: of the asset, assets/{sha256}; or the asset, which is not asked for again.
            path: of the file; one that is there is replaced.
            progress: called with the bytes done and the bytes in all.

        Raises:
            OSError: the file cannot be written.
            IntegrityError: the received bytes do not match the digest; they were discarded.
            grpc.RpcError: the download failed, after a few attempts without progress.
        """
        asset = self.assets.GetAsset(assets_pb2.GetAssetRequest(name=name)) if isinstance(name, str) else name
        if asset.size_bytes > RANGED_BYTES:
            with RangeDownload(asset, path, progress) as ranged:
                self._transfer.receive_ranges(ranged)
                while not ranged.finish():
                    self._transfer.receive_ranges(ranged)
            return asset
        with StreamDownload(asset, path, progress) as incoming:
            self._transfer.receive(incoming)
            while not incoming.finish():
                self._transfer.receive(incoming)
        return asset

    def close(self) -> None:
        """
        End the connection; calls under way are cancelled.
        """
        self._transfer.close()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
