#!/bin/bash
# Form a Valkey Cluster of running nodes: form.sh REPLICAS HOST:PORT…
#
# The password is in the file VALKEY_PASSWORD_FILE. It does nothing if the nodes are in a cluster, so that it can
# run with every rollout. It waits up to two minutes for nodes to respond.
set -euo pipefail
replicas=$1
shift
if [ -n "${VALKEY_PASSWORD_FILE:-}" ]; then
  REDISCLI_AUTH=$(cat "$VALKEY_PASSWORD_FILE")
  export REDISCLI_AUTH
fi
cli=$(command -v valkey-cli || command -v redis-cli) || { echo "neither valkey-cli nor redis-cli is here" >&2; exit 1; }

ask() { "$cli" -h "${1%:*}" -p "${1##*:}" "${@:2}"; }

for node in "$@"; do
  for attempt in $(seq 120); do
    [ "$(ask "$node" ping 2>&1 || true)" = PONG ] && break
    [ "$attempt" -lt 120 ] || { echo "$node does not answer" >&2; exit 1; }
    sleep 1
  done
  if ask "$node" cluster info | grep -q "cluster_state:ok"; then
    echo "$node is in a cluster: nothing to do"
    exit 0
  fi
done

# Addresses, and not names: what the nodes tell each other and their clients.
addresses=()
for node in "$@"; do
  addresses+=("$(getent ahostsv4 "${node%:*}" | awk 'NR == 1 {print $1}'):${node##*:}")
done
"$cli" --cluster create "${addresses[@]}" --cluster-replicas "$replicas" --cluster-yes
