#!/bin/sh
# Makes the virtual environment with pinned dependencies. The Makefile calls it.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}" "${TORCH_INDEX:=}"

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "maptile-loc needs Python 3.11 or newer; $PYTHON is older. Set PYTHON=/path/to/python3.11" >&2
  exit 2
}

# System libraries of Open3D that a minimal Debian or Ubuntu does not have.
if [ "$(uname -s)" = Linux ]; then
  lacking=""
  for library in libusb-1.0.so.0=libusb-1.0-0 libX11.so.6=libx11-6 libGL.so.1=libgl1 libEGL.so.1=libegl1; do
    "$PYTHON" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${library%=*}" 2>/dev/null || lacking="$lacking ${library#*=}"
  done
  if [ -n "$lacking" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $lacking
  elif [ -n "$lacking" ]; then
    echo "Open3D needs system libraries. Install them with:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y$lacking" >&2
    exit 2
  fi
fi

# A venv without pip (python3-venv was not installed) is made again.
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV" || {
  echo "No virtual environment could be made. On Debian or Ubuntu: sudo apt-get install -y python3-venv" >&2
  exit 2
}
if [ -n "$TORCH_INDEX" ]; then
  "$VENV/bin/python" -m pip install --quiet --index-url "$TORCH_INDEX" -c constraints.txt torch
fi
"$VENV/bin/python" -m pip install --quiet "pip>=25.1"   # for dependency groups
"$VENV/bin/python" -m pip install --quiet -c constraints.txt --group dev --editable .
