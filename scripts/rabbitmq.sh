#!/bin/sh
# Prints the path of a rabbitmq-server that can be started as a private node: RABBITMQ_SERVER, or the one that is
# installed, or Debian's package, installed without letting it start a service of the system's.
set -eu
installed=/usr/lib/rabbitmq/bin/rabbitmq-server # not the one on PATH: that starts the system's own node

if [ "${RABBITMQ_SERVER:-}" ]; then
  if ! found=$(command -v "$RABBITMQ_SERVER"); then
    echo "RABBITMQ_SERVER=$RABBITMQ_SERVER is no program: correct it, or leave it out." >&2
    exit 1
  fi
elif [ -x "$installed" ]; then
  found=$installed
elif command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # What invoke-rc.d asks before it starts a service: 101 is "no".
  policy=/usr/sbin/policy-rc.d ours=
  [ -e "$policy" ] || { ours=1 && printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"; }
  {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq install --no-install-recommends rabbitmq-server ||
      { apt-get -qq update && apt-get -qq install --no-install-recommends rabbitmq-server; }
  } >"$scratch/log" 2>&1 || : # what counts is whether it is there
  [ ! "$ours" ] || rm "$policy"
  if [ ! -x "$installed" ]; then
    tail -n 5 "$scratch/log" >&2
    echo "rabbitmq-server could not be installed." >&2
    exit 1
  fi
  found=$installed
elif found=$(command -v rabbitmq-server); then
  :
else
  echo "The tests of Celery on RabbitMQ need rabbitmq-server: apt install rabbitmq-server, brew install rabbitmq, or" \
    "RABBITMQ_SERVER=/path/to/rabbitmq-server. It need not run." >&2
  exit 1
fi
echo "$found"
