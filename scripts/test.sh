#!/bin/sh
# Everything that must hold before a commit: the template's own code, every combination of answers, the promises of a
# running service on each stack, and a service's own tests. The stacks run beside each other: they mostly wait.
set -eu
cd "$(dirname "$0")/.."
. scripts/uv.sh

"$uv" run --frozen ruff format --check .
"$uv" run --frozen ruff check .
"$uv" run --frozen ty check
TEMPORAL_CLI=$(sh scripts/temporal.sh)
export TEMPORAL_CLI
"$uv" run --frozen pytest tests/render

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

stack() {
  "$uv" run --frozen pytest -p no:cacheprovider tests/contract --stack "$1"
  "$uv" run --frozen copier copy --quiet --defaults --data "stack=$1" --vcs-ref HEAD "$PWD" "$scratch/$1"
  cd "$scratch/$1"
  "$uv" run pytest
}

started=
for name in celery arq temporal; do
  (stack "$name") >"$scratch/$name.log" 2>&1 &
  started="$started $name=$!"
done
failed=
for each in $started; do
  if wait "${each#*=}"; then told=held; else told=FAILED failed=yes; fi
  printf '\n======== %s: %s\n' "${each%=*}" "$told"
  cat "$scratch/${each%=*}.log"
done
[ -z "$failed" ]
