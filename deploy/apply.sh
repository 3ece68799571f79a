#!/bin/bash
# Install or upgrade: deploy/apply.sh OVERLAY, a folder of deploy/overlays or any other path. It prints what it
# waits for, and is idempotent. KUBECTL names another kubectl, with its options: KUBECTL="kubectl --context …".
set -euo pipefail
cd "$(dirname "$0")/overlays"
overlay=${1:?which overlay: $(echo */) or a path}
read -ra kubectl <<<"${KUBECTL:-kubectl}"

if [ "$overlay" = local ] && [ ! -e local/secrets/s3/credentials ]; then
  (cd ../.. && "${PYTHON:-python3}" -m deploy.secrets deploy/overlays/local/secrets)
fi

rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
"${kubectl[@]}" kustomize "$overlay" >"$rendered"
if grep -q "@sha256:0\{64\}" "$rendered"; then
  echo "$overlay: set the image: (cd deploy/overlays/$overlay && kustomize edit set image modelyard=…@sha256:…)" >&2
  exit 1
fi
namespace=$(awk '/^kind: Namespace/ {inside = 1} inside && /^  name:/ {print $2; exit}' "$rendered")

# Jobs are immutable. New pods wait for the migration to complete; old ones continue to serve.
echo "== remove completed migration Jobs, so that they run again"
"${kubectl[@]}" --namespace "$namespace" delete job --ignore-not-found registry-migration cdn-migration valkey-cluster

echo "== apply"
"${kubectl[@]}" apply --server-side --filename "$rendered"

echo "== migrations"
"${kubectl[@]}" --namespace "$namespace" wait --for=condition=complete --timeout=3600s \
  job/registry-migration job/cdn-migration

for deployment in registry cdn cache doors gateway; do
  "${kubectl[@]}" --namespace "$namespace" rollout status --timeout=900s "deployment/$deployment"
done
echo "== done: $("${kubectl[@]}" --namespace "$namespace" get deployment --output name | wc -l) deployments are up to date"
