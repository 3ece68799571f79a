#!/bin/bash
# Restore both databases into empty ones: deploy/restore.sh FOLDER, with a folder of backup.sh.
#
# Variables are as for backup.sh. It rejects databases that are not empty, and restores all or nothing. Before
# the services start, run `migrate registry` and `migrate cdn` of the image as usual (the rights of the services' role, and a
# newer schema), and then both with --restored, so that revisions continue with numbers that were never used.
set -euo pipefail
folder=${1:?the folder of a backup}
: "${REGISTRY_DATABASE:?}" "${CDN_DATABASE:?}"
for name in registry cdn; do
  [ -s "$folder/$name.dump" ] || { echo "$folder/$name.dump is not there: is this a whole backup?" >&2; exit 1; }
  variable="${name^^}_DATABASE"
  tables=$(psql --dbname "${!variable}" --no-psqlrc --tuples-only --no-align \
    --command "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()")
  [ "$tables" = 0 ] || { echo "the database of $name has $tables tables: restore into an empty one" >&2; exit 1; }
done
for name in registry cdn; do
  variable="${name^^}_DATABASE"
  echo "== $name"
  pg_restore --dbname "${!variable}" --no-owner --no-privileges --single-transaction --exit-on-error "$folder/$name.dump"
done
echo "== restored: migrate both, then both with --restored"
