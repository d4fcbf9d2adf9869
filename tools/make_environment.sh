#!/bin/sh
# Makes the environment in folder $1, and the file $1/made-with, which names its Python.
#
# Keeps an existing environment if it works and, if PYTHON is set, was made with that Python.
# Otherwise replaces it, with everything installed in it. `made-with` changes only when the
# environment does, so that make reinstalls.
set -eu

environment=$1
find_python="sh $(dirname "$0")/find_python.sh"

# Prints the version and prefix of the interpreter $1 if it runs the statement $2 without error.
identity() {
  "$1" -c "import sys; $2; print('%d.%d of %s' % (*sys.version_info[:2], sys.base_prefix))" \
    2>/dev/null
}

present=$(identity "$environment/bin/python" "import pip") || present=
# After an upgrade of the system's Python, the environment's commands may run another version.
if [ -f "$environment/made-with" ] && [ "$(cat "$environment/made-with")" != "$present" ]; then
  present=
fi

if [ -z "${PYTHON:-}" ] && [ -n "$present" ] \
  && PYTHON="$environment/bin/python" $find_python >/dev/null 2>&1; then
  wanted=$present
else
  python=$($find_python)
  wanted=$(identity "$python" "pass")
fi

if [ "$present" != "$wanted" ]; then
  echo "== Making $environment with Python $wanted"
  "$python" -m venv --clear "$environment"
fi
if [ ! -f "$environment/made-with" ]; then
  echo "$wanted" > "$environment/made-with"
fi
