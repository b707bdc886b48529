# To be sourced in the repository's root. Sets $uv: uv from PATH, or installed into .uv/ by a Python 3.11 or newer.
# Exports UV_PYTHON, so that uv takes a Python that is there and downloads one only where there is none.

for python in python3 python3.14 python3.13 python3.12 python3.11; do
  found=$("$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) or print(sys.executable))' 2>/dev/null) && break
  found=
done
if [ "$found" ]; then
  export UV_PYTHON="${UV_PYTHON:-$found}"
fi

if uv --version >/dev/null 2>&1; then
  uv=$(command -v uv)
else
  uv=$PWD/.uv/bin/uv
  if [ ! -x "$uv" ]; then
    if [ -z "$found" ]; then
      echo "This needs Python 3.11 or newer, or uv (https://docs.astral.sh/uv/). Here is $(python3 --version 2>&1)." >&2
      exit 1
    fi
    if ! "$found" -c 'import ensurepip' 2>/dev/null; then
      echo "$found has no ensurepip, so it cannot install uv. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2
      exit 1
    fi
    "$found" -m venv .uv
    .uv/bin/python -m pip install --quiet uv
  fi
fi
