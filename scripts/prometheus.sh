#!/bin/sh
# Prints the folder with prometheus and promtool: those on PATH, or Debian's package, unpacked into .tools/ without
# installing a service. 20 MB, a few seconds, once. Debian 12 has 2.42, the oldest with which the rules are tested.
set -eu
cd "$(dirname "$0")/.."
found=$PWD/.tools/prometheus/usr/bin

if promtool=$(command -v promtool) && [ -x "${promtool%/*}/prometheus" ]; then
  found=${promtool%/*}
elif [ ! -x "$found/promtool" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "The tests of the alerts need promtool and prometheus, 2.42 or newer, on PATH: https://prometheus.io/download" >&2
    exit 1
  fi
  mkdir -p .tools
  scratch=$(mktemp -d "$PWD/.tools/new.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  cd "$scratch"
  {
    apt-get -qq download prometheus || { apt-get -qq update && apt-get -qq download prometheus; }
    dpkg-deb --extract prometheus_*.deb unpacked
  } >log 2>&1 || { cat log >&2; exit 1; }
  mv --no-target-directory unpacked ../prometheus 2>/dev/null || [ -x "$found/promtool" ] # another run was first
fi
echo "$found"
