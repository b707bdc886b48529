#!/bin/sh
# Prints the path of a `temporal` command: TEMPORAL_CLI, or the one on PATH, or one that Go builds into .tools/ (2.5
# minutes, once; newer versions than this have a replace directive, with which `go install` refuses them), or the
# Python SDK's download.
set -eu
cd "$(dirname "$0")/.."
version=v1.5.1
built=$PWD/.tools/temporal-$version/temporal

if [ "${TEMPORAL_CLI:-}" ]; then
  if ! found=$(command -v "$TEMPORAL_CLI"); then
    echo "TEMPORAL_CLI=$TEMPORAL_CLI is no program: correct it, or leave it out." >&2
    exit 1
  fi
elif found=$(command -v temporal); then
  :
elif [ -x "$built" ]; then
  found=$built
else
  mkdir -p .tools
  scratch=$(mktemp -d "$PWD/.tools/new.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  found=
  if command -v go >/dev/null && GOGC=400 GOBIN=$scratch go install "github.com/temporalio/cli/cmd/temporal@$version" 2>"$scratch/log"; then
    mkdir -p "${built%/*}"
    mv "$scratch/temporal" "$built"
    found=$built
  else
    . scripts/uv.sh
    "$uv" run --frozen --quiet --no-project --with temporalio==1.35.0 python - "$PWD/.tools" 2>>"$scratch/log" <<'END' || true
import asyncio, sys
from temporalio.testing import WorkflowEnvironment

async def main():
    async with await WorkflowEnvironment.start_local(download_dest_dir=sys.argv[1]):
        pass

asyncio.run(main())
END
    [ ! -x .tools/temporal-sdk-python-1.35.0 ] || found=$PWD/.tools/temporal-sdk-python-1.35.0
  fi
  if [ ! "$found" ]; then
    tail -n 3 "$scratch/log" >&2
    echo "The tests of stack Temporal need the temporal command on PATH or in TEMPORAL_CLI: brew install temporal," \
      "https://temporal.io/setup, or Go 1.24 or newer, by which this script builds it." >&2
    exit 1
  fi
fi
echo "$found"
