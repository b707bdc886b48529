#!/bin/sh
# Prints the folder with initdb and postgres: that of PATH, or of Debian's packages, which are installed if they are
# missing and may be (without starting a server).
set -eu

found=$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
if [ ! "$found" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
  { apt-get -qq update && apt-get -qq install --yes --no-install-recommends postgresql; } >/dev/null 2>&1 || true
  found=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
fi
if [ ! "$found" ]; then
  echo "The tests of schedules in a database need PostgreSQL's initdb and postgres on PATH: https://www.postgresql.org/download" >&2
  exit 1
fi
echo "${found%/initdb}"
