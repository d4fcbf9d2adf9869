#!/bin/sh
# Makes the environment in folder $1, and the file $1/made-with, which names its Python.
#
# An environment that works stays; if PYTHON is set, only if it is that Python's. Otherwise it is
# replaced, with all that is installed in it. `made-with` changes exactly when the environment does,
# so that make installs again.
set -eu

environment=$1
find_python="sh $(dirname "$0")/find_python.sh"

# Prints the version and the installation of the interpreter $1, once it has run the statement $2.
identity() {
  "$1" -c "import sys; $2; print('%d.%d of %s' % (*sys.version_info[:2], sys.base_prefix))" \
    2>/dev/null
}

present=$(identity "$environment/bin/python" "import pip") || present=
# An upgrade of the system's Python can put another version behind the environment's commands.
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
