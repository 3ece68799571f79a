#!/bin/bash
# Back up both databases: deploy/backup.sh FOLDER. With restore.sh this works everywhere; the backups of CloudNativePG and RDS
# also support point-in-time recovery (docs/operations/backup.md).
#
#   REGISTRY_DATABASE, CDN_DATABASE   where they are, as psql takes it: "host=… port=… user=modelyard dbname=modelyard"
#   PGPASSFILE                        a file with their owner's passwords: passwords are neither arguments nor variables
#
# The registry is dumped first: assets that it references still exist when the asset service is dumped later, because pinned
# assets are never collected and unpinned ones are retained for days. Back up the bucket last, for the same reason, with the
# tools of its server (`aws s3 sync`, replication, versioning): objects under assets/ never change.
set -euo pipefail
folder=${1:?a folder that does not exist yet}
: "${REGISTRY_DATABASE:?}" "${CDN_DATABASE:?}"
[ ! -e "$folder" ] || { echo "$folder is there already: every backup has a folder of its own" >&2; exit 1; }

new="$folder.unfinished"
rm -rf "$new"
umask 077
mkdir -p "$new"
for name in registry cdn; do
  variable="${name^^}_DATABASE"
  echo "== $name"
  # Privileges are granted by the migration, to the role of the service in the target.
  pg_dump --dbname "${!variable}" --format custom --no-owner --no-privileges --file "$new/$name.dump"
  pg_restore --list "$new/$name.dump" | grep -c "TABLE DATA" | sed 's/$/ tables/'
done
# Atomic: a folder of that name is a complete backup.
mv "$new" "$folder"
du -sh "$folder"
