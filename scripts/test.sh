#!/bin/sh
# Everything that must hold before a commit: the template's own code, every combination of answers, the promises of a
# running service on each stack, and a service's own tests. The stacks run beside each other: each test also waits.
set -eu
cd "$(dirname "$0")/.."
. scripts/uv.sh
unset PYTHONDONTWRITEBYTECODE # a thousand processes start; each would compile anew all that it imports

"$uv" run --frozen ruff format --check .
"$uv" run --frozen ruff check .
"$uv" run --frozen ty check

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

RABBITMQ_SERVER=$(sh scripts/rabbitmq.sh)
sh scripts/temporal.sh >"$scratch/temporal.cli" &
cli=$!
"$uv" run --frozen pytest tests/update >"$scratch/update.log" 2>&1 &
updates=$! told=held
"$uv" run --frozen pytest tests/render
wait "$updates" || told=FAILED
printf '\n======== updates: %s\n' "$told"
cat "$scratch/update.log"
[ "$told" = held ]
wait "$cli"
TEMPORAL_CLI=$(cat "$scratch/temporal.cli")
export TEMPORAL_CLI RABBITMQ_SERVER

contract() { # NAME [PYTEST-OPTION…]
  name=$1
  shift
  set -- "$@" -o "cache_dir=$scratch/$name.cache"
  case $name in
    rabbitmq) # Celery with its other choices, in the files that these can change; the rest runs on Redis
      set -- "$@" --stack rabbitmq --answer schedules=database --answer 'monitoring=[prometheus, flower]'
      for file in rabbitmq database flower faults dead_letters priorities queues submission retries schedules \
        health_and_metrics settings; do
        set -- "$@" "tests/contract/test_$file.py"
      done
      ;;
    temporal-alone) set -- "$@" --stack temporal tests/contract/test_temporal*.py ;; # the longest suite, in two
    temporal)
      set -- "$@" --stack temporal --ignore-glob '*/test_temporal*.py' --ignore tests/contract/test_alerts.py tests/contract
      ;;
    *) set -- "$@" --stack "$name" tests/contract ;;
  esac
  "$uv" run --frozen pytest "$@"
}

service() {
  case $1 in
    temporal-alone) return ;; # has one already
    rabbitmq) set -- "$1" --data broker=rabbitmq --data schedules=database --data 'monitoring=[prometheus, flower]' ;;
    *) set -- "$1" --data "stack=$1" ;;
  esac
  folder=$scratch/$1
  shift
  "$uv" run --frozen copier copy --quiet --overwrite --defaults "$@" --vcs-ref HEAD "$PWD" "$folder" &&
    (cd "$folder" && "$uv" run pytest)
}

prove() {
  if contract "$1" && : >"$scratch/$1.held" && service "$1"; then
    : >"$scratch/$1.passed"
  fi >"$scratch/$1.log" 2>&1
}

for lane in temporal rabbitmq celery 'arq temporal-alone'; do
  for name in $lane; do prove "$name"; done &
done
wait
failed=
for name in celery arq temporal temporal-alone rabbitmq; do
  told=held
  [ -e "$scratch/$name.passed" ] || told=FAILED failed="$failed $name"
  printf '\n======== %s: %s\n' "$name" "$told"
  cat "$scratch/$name.log"
done
for name in $failed; do # what did not hold beside the other suites must hold alone
  printf '\n======== %s, alone: what failed\n' "$name"
  [ -e "$scratch/$name.held" ] || contract "$name" --last-failed # of a suite that was killed, all
  service "$name"
done
