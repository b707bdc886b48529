#!/bin/sh
# Prints the path of the `temporal` command that the tests start: TEMPORAL_CLI, or the one that pyproject.toml names for the
# oldest server that a service may have, or, with the argument `newest`, for the newest that was tried.
set -eu
cd "$(dirname "$0")/.."

if [ "${TEMPORAL_CLI:-}" ]; then
  if ! found=$(command -v "$TEMPORAL_CLI"); then
    echo "TEMPORAL_CLI=$TEMPORAL_CLI is no program: correct it, or leave it out." >&2
    exit 1
  fi
else
  . scripts/uv.sh
  group=temporal${1:+-$1}
  UV_PROJECT_ENVIRONMENT=$PWD/.tools/$group "$uv" sync --frozen --quiet --only-group "$group"
  found=$PWD/.tools/$group/bin/temporal
fi
echo "$found"
