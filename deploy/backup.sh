#!/bin/bash
# Back both databases up: deploy/backup.sh FOLDER. With restore.sh it is the way that works everywhere; CloudNativePG's and
# RDS's own backups can also go back to any moment (docs/operations/backup.md).
#
#   REGISTRY_DATABASE, CDN_DATABASE   where they are, as psql takes it: "host=… port=… user=modelyard dbname=modelyard"
#   PGPASSFILE                        a file with their owner's passwords: passwords are neither arguments nor variables
#
# The registry comes first. What it refers to in the asset service is there when the latter is saved a moment later, since
# nothing that is pinned is ever collected, and what is no longer pinned stays for days. Save the bucket last, for the same
# reason, with the tools of its server (`aws s3 sync`, replication, versioning): objects under assets/ never change.
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
  # Rights are given by the migration, to whatever role the service has where it is restored.
  pg_dump --dbname "${!variable}" --format custom --no-owner --no-privileges --file "$new/$name.dump"
  pg_restore --list "$new/$name.dump" | grep -c "TABLE DATA" | sed 's/$/ tables/'
done
# All of it or nothing: a folder of that name is a whole backup.
mv "$new" "$folder"
du -sh "$folder"
