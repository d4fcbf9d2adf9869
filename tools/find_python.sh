#!/bin/sh
# Prints the path of a Python that supports the package.
#
#   find_python.sh              the newest supported Python on this machine
#   find_python.sh 3.11         the first of the given versions that this machine has
#   PYTHON=... find_python.sh   the Python that PYTHON names, if it is supported
#
# A command on the PATH may not work (pyenv's shims fail for versions that are not activated), and
# Debian's Python has no ensurepip without python3-venv. So the script runs a probe in each candidate.
set -u

supported="3.13 3.12 3.11"
probe='
import sys
version = "%d.%d" % sys.version_info[:2]
if version not in sys.argv[1:]:
  sys.exit("is Python %s; supported are %s" % (version, ", ".join(sys.argv[1:])))
try:
  import ensurepip, venv
except ImportError as error:
  sys.exit("cannot make an environment (%s); on Debian, install python%s-venv" % (error, version))
print(sys.executable)
'

# Prints the path of the interpreter $1 if it starts and has one of the versions that follow.
path_of() {
  command=$1
  shift
  "$command" -c "$probe" "$@"
}

# Prints the path of an interpreter of version $1 from the PATH or from pyenv.
find_version() {
  for candidate in "python$1" python3 \
    "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*[0-9]/bin/python; do
    path_of "$candidate" "$1" 2>/dev/null && return
  done
  return 1
}

install="Install one from python.org, a package manager, pyenv or uv."

# Prints how to select a supported interpreter.
advise() {
  found=
  for version in $supported; do
    if path=$(find_version "$version"); then
      found="$found
  make PYTHON=$path"
    fi
  done
  if [ -n "$found" ]; then
    echo "Leave PYTHON out to take the newest, or name one of these:$found"
  else
    echo "$install"
  fi
}

if [ -n "${PYTHON:-}" ]; then
  if ! command -v "$PYTHON" >/dev/null; then
    message="no such command"
  elif message=$(path_of "$PYTHON" $supported 2>&1); then
    echo "$message"
    exit
  fi
  case $message in
    "is Python"* | "cannot make"*) ;;
    *) message="does not start: $(echo "$message" | head -n 1)" ;;
  esac
  echo "PYTHON=$PYTHON $message" >&2
  advise >&2
  exit 1
fi

for version in ${*:-$supported}; do
  find_version "$version" && exit
done
echo "No Python $(echo "${*:-$supported}" | sed 's/ /, /g') that starts was found." >&2
echo "$install" >&2
exit 1
