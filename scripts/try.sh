#!/bin/sh
# Scaffold a service into a folder (a temporary one unless given) and run its demo. Further arguments go to Copier:
#   sh scripts/try.sh FOLDER --data stack=arq
set -eu
folder=${1:-$(mktemp -d)/my-service}
[ $# -eq 0 ] || shift
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ "$(ls -A "$folder")" ]; then
  echo "$folder is not empty; give a new folder: sh scripts/try.sh FOLDER" >&2
  exit 1
fi
cd "$(dirname "$0")/.."
. scripts/uv.sh

"$uv" run --frozen --quiet copier copy --quiet --defaults --vcs-ref HEAD "$@" "$PWD" "$folder"
cd "$folder"
"$uv" run my-service demo
echo "The service is in $folder; its README.md says what to do with it."
