#!/bin/sh
# Everything that must hold before a commit: the template's own code, every combination of answers, updates, the promises of a
# running service on each stack, and a service's own tests. Four suites at a time, since each also waits; what
# does not hold beside the others, of a running service, must hold alone.
#
#     sh scripts/test.sh                 all of it
#     sh scripts/test.sh SUITE [OPTION…] one suite, with options of pytest
#     sh scripts/test.sh faults          every fault on every stack, not only the selection of `all of it`
set -eu
cd "$(dirname "$0")/.."
. scripts/uv.sh
unset PYTHONDONTWRITEBYTECODE # a thousand processes start; each would compile anew all that it imports
SUITES='rabbitmq temporal celery arq render temporal-alone update faults-celery faults-arq faults-temporal faults-rabbitmq
  scripts service-celery service-arq service-temporal service-rabbitmq' # the long ones first

if [ ! "${1:-}" ]; then
  "$uv" run --frozen ruff format --check .
  "$uv" run --frozen ruff check .
  "$uv" run --frozen ty check

  TEST_SCRATCH=$(mktemp -d)
  trap 'rm -rf "$TEST_SCRATCH"' EXIT
  export TEST_SCRATCH
  # shellcheck disable=SC2016 # the inner shell expands it
  one='sh scripts/test.sh "$1" >"$TEST_SCRATCH/$1.log" 2>&1 && : >"$TEST_SCRATCH/$1.held" || :'
  printf '%s\n' $SUITES | xargs -P 4 -I SUITE sh -c "$one" sh SUITE
  failed=
  for suite in $SUITES; do
    told=held
    [ -e "$TEST_SCRATCH/$suite.held" ] || told=FAILED failed="$failed $suite"
    printf '\n======== %s: %s\n' "$suite" "$told"
    cat "$TEST_SCRATCH/$suite.log"
  done
  case $failed in *render* | *update* | *scripts*) exit 1 ;; esac # these wait for nothing
  for suite in $failed; do
    printf '\n======== %s, alone: what failed\n' "$suite"
    sh scripts/test.sh "$suite" --last-failed
  done
  exit
fi

if [ "$1" = faults ]; then
  shift
  for stack in celery rabbitmq arq temporal; do
    sh scripts/test.sh "faults-$stack" --all "$@" || failed="${failed:-} $stack"
  done
  [ ! "${failed:-}" ] || { echo "Faults do not hold on:$failed" >&2 && exit 1; }
  exit
fi

suite=$1 stack=${1#*-}
shift
[ ! "${TEST_SCRATCH:-}" ] || set -- "$@" -o "cache_dir=$TEST_SCRATCH/$suite.cache" # they run beside each other
case $suite in
  temporal* | faults-temporal) TEMPORAL_CLI=$(sh scripts/temporal.sh); export TEMPORAL_CLI ;; # not &&, which would hide that it failed
  service-temporal) TEMPORAL_CLI=$(sh scripts/temporal.sh newest); export TEMPORAL_CLI ;;
  *rabbitmq) RABBITMQ_SERVER=$(sh scripts/rabbitmq.sh); export RABBITMQ_SERVER ;;
esac
case $suite in
  render | update | scripts) set -- "$@" "tests/$suite" ;;
  celery | arq) set -- "$@" --stack "$suite" tests/contract ;;
  temporal) set -- "$@" --stack temporal --ignore-glob '*/test_temporal*.py' --ignore tests/contract/test_alerts.py tests/contract ;;
  temporal-alone) set -- "$@" --stack temporal tests/contract/test_temporal*.py ;; # the longest suite, in two
  faults-rabbitmq) # what the broker can change; the rest is Celery's on Redis
    set -- "$@" --stack rabbitmq
    case " $* " in
      *" --all "*) set -- "$@" tests/faults ;;
      *) set -- "$@" tests/faults/test_rabbitmq_*.py tests/faults/test_celery_repair.py tests/faults/test_parts.py ;;
    esac
    ;;
  faults-*) set -- "$@" --stack "$stack" tests/faults ;;
  rabbitmq) # Celery with its other choices, in the files that these can change; the rest runs on Redis
    set -- "$@" --stack rabbitmq --answer schedules=database --answer 'monitoring=[prometheus, flower]'
    for file in rabbitmq database flower faults dead_letters priorities queues submission retries schedules \
      health_and_metrics settings; do
      set -- "$@" "tests/contract/test_$file.py"
    done
    ;;
  service-*)
    answers="--data stack=$stack"
    [ "$stack" != rabbitmq ] || answers='--data broker=rabbitmq --data schedules=database --data monitoring=[prometheus,flower]'
    folder=${TEST_SCRATCH:-.workbench}/$suite
    "$uv" run --frozen copier copy --quiet --overwrite --defaults $answers --vcs-ref HEAD "$PWD" "$folder"
    cd "$folder"
    exec "$uv" run pytest "$@"
    ;;
  *)
    echo "There is no suite $suite; there are $SUITES." >&2
    exit 1
    ;;
esac
exec "$uv" run --frozen pytest "$@"
