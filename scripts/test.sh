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

contract() { # STACK [PYTEST-OPTION…]
  "$uv" run --frozen pytest -o "cache_dir=$scratch/$1.cache" tests/contract --stack "$@"
}

service() {
  "$uv" run --frozen copier copy --quiet --overwrite --defaults --data "stack=$1" --vcs-ref HEAD "$PWD" "$scratch/$1" &&
    (cd "$scratch/$1" && "$uv" run pytest)
}

started=
for name in celery arq temporal; do
  (contract "$name" && : >"$scratch/$name.held" && service "$name") >"$scratch/$name.log" 2>&1 &
  started="$started $name=$!"
done
failed=
for each in $started; do
  name=${each%=*} told=held
  wait "${each#*=}" || told=FAILED failed="$failed $name"
  printf '\n======== %s: %s\n' "$name" "$told"
  cat "$scratch/$name.log"
done
for name in $failed; do # what did not hold beside two other suites must hold alone
  printf '\n======== %s, alone: what failed\n' "$name"
  [ -e "$scratch/$name.held" ] || contract "$name" --last-failed # of a suite that was killed, all
  service "$name"
done
