#!/usr/bin/env bash
# Compare the contracts with those of the last tag. Usage: protos/breaking.sh BIN
set -euo pipefail
bin=$1
tag=$(git describe --tags --abbrev=0 2>/dev/null) || { echo "no tag yet: nothing to compare with"; exit 0; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/then"
git archive "$tag" protos | tar -x -C "$scratch/then"
"$bin/python" protos/generate.py --image "$scratch/now.binpb"
# The generator takes the contracts beside it, so the tag's own generator makes the tag's image.
"$bin/python" "$scratch/then/protos/generate.py" --image "$scratch/then.binpb"
"$bin/buf" breaking "$scratch/now.binpb" --against "$scratch/then.binpb" --path modelyard
echo "no breaking change since $tag"
