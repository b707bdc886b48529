#!/bin/sh
# Prints the path of an `actionlint` command: the one on PATH, or one that Go builds into .tools/ (half a minute, once; the
# wheel on PyPI downloads it from GitHub while it installs).
set -eu
cd "$(dirname "$0")/.."
version=v1.7.12
built=$PWD/.tools/actionlint-$version/actionlint

if found=$(command -v actionlint); then
  :
else
  found=$built
  if [ ! -x "$built" ]; then
    mkdir -p .tools
    scratch=$(mktemp -d "$PWD/.tools/new.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    if ! command -v go >/dev/null || ! GOBIN=$scratch go install "github.com/rhysd/actionlint/cmd/actionlint@$version" 2>"$scratch/log"; then
      [ ! -e "$scratch/log" ] || tail -n 3 "$scratch/log" >&2
      echo "The tests of rendered workflows need actionlint on PATH: https://github.com/rhysd/actionlint, or Go, by which this script builds it." >&2
      exit 1
    fi
    mkdir -p "${built%/*}"
    mv "$scratch/actionlint" "$built"
  fi
fi
echo "$found"
