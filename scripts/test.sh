#!/bin/sh
# Everything that must hold before a commit: the template's own code, every combination of answers, the promises of a
# running service, and a service's own tests.
set -eu
cd "$(dirname "$0")/.."
. scripts/uv.sh

"$uv" run --frozen ruff format --check .
"$uv" run --frozen ruff check .
"$uv" run --frozen ty check
"$uv" run --frozen pytest tests/render
"$uv" run --frozen pytest tests/contract

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$uv" run --frozen copier copy --quiet --defaults --vcs-ref HEAD "$PWD" "$scratch/my-service"
cd "$scratch/my-service"
"$uv" run pytest
