#!/bin/bash
# Build the image: the tag of the base is resolved to its digest first, so that the build is reproducible.
#
#   TAG       tag of the image; default modelyard:VERSION
#   BASE      the base; default is the newest digest of the tag below; with @sha256:… it is taken as it is
#   PLATFORM  such as linux/amd64,linux/arm64; default is this machine's
#   PUSH=1    push it, with a bill of materials (SBOM) and its provenance
set -euo pipefail
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
command -v "$docker" >/dev/null || { echo "make image needs docker with buildx (or DOCKER=podman)" >&2; exit 1; }

base=${BASE:-docker.io/library/python:3.11-slim-bookworm}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
if [[ $base != *@sha256:* ]]; then
  digest=$("$docker" buildx imagetools inspect "$base" --format '{{.Manifest.Digest}}')
  base="$base@$digest"
fi
echo "on $base"

options=(--build-arg "BASE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)")
[ -z "${PLATFORM:-}" ] || options+=(--platform "$PLATFORM")
if [ -n "${PUSH:-}" ]; then
  options+=(--push --sbom=true --provenance=true)
else
  options+=(--load)
fi
"$docker" buildx build "${options[@]}" --file deploy/Dockerfile --tag "${TAG:-modelyard:$version}" .
