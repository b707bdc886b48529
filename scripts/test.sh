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
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for stack in celery arq; do
  "$uv" run --frozen pytest tests/contract --stack "$stack"
  "$uv" run --frozen copier copy --quiet --defaults --data "stack=$stack" --vcs-ref HEAD "$PWD" "$scratch/$stack"
  (cd "$scratch/$stack" && "$uv" run pytest)
done
