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
RABBITMQ_SERVER=$(sh scripts/rabbitmq.sh)
export TEMPORAL_CLI RABBITMQ_SERVER

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$uv" run --frozen pytest tests/update >"$scratch/update.log" 2>&1 &
updates=$! told=held
"$uv" run --frozen pytest tests/render
wait "$updates" || told=FAILED
printf '\n======== updates: %s\n' "$told"
cat "$scratch/update.log"
[ "$told" = held ]

contract() { # STACK [PYTEST-OPTION…]
  set -- --stack "$@" -o "cache_dir=$scratch/$1.cache"
  case $2 in
    rabbitmq) # Celery with its other choices, in the files that these can change; the rest runs on Redis
      set -- "$@" --answer schedules=database --answer 'monitoring=[prometheus, flower]'
      for file in rabbitmq database flower faults dead_letters priorities queues submission retries schedules \
        health_and_metrics settings; do
        set -- "$@" "tests/contract/test_$file.py"
      done
      ;;
    *) set -- "$@" tests/contract ;;
  esac
  "$uv" run --frozen pytest "$@"
}

service() {
  case $1 in
    rabbitmq) set -- "$1" --data broker=rabbitmq --data schedules=database --data 'monitoring=[prometheus, flower]' ;;
    *) set -- "$1" --data "stack=$1" ;;
  esac
  folder=$scratch/$1
  shift
  "$uv" run --frozen copier copy --quiet --overwrite --defaults "$@" --vcs-ref HEAD "$PWD" "$folder" &&
    (cd "$folder" && "$uv" run pytest)
}

started=
for name in celery arq temporal rabbitmq; do
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
for name in $failed; do # what did not hold beside the other suites must hold alone
  printf '\n======== %s, alone: what failed\n' "$name"
  [ -e "$scratch/$name.held" ] || contract "$name" --last-failed # of a suite that was killed, all
  service "$name"
done
