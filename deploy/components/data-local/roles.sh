#!/bin/bash
# Run once by the image of PostgreSQL, when its data folder is new: an owner for both databases, and the services' role.
set -euo pipefail
psql --username postgres --set ON_ERROR_STOP=1 \
  --set owner="$(cat /etc/postgresql/password/owner)" --set service="$(cat /etc/postgresql/password/service)" <<'SQL'
CREATE ROLE modelyard LOGIN PASSWORD :'owner';
CREATE ROLE modelyard_service LOGIN PASSWORD :'service';
CREATE DATABASE modelyard OWNER modelyard;
CREATE DATABASE modelyard_cdn OWNER modelyard;
SQL
