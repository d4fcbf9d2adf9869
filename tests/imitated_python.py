"""Commands that behave like Python of another version, for the tools that look for one."""

import pathlib
import shutil
import sys

_COMMAND = """#!{interpreter} -IS
import os
import sys

version = "{version}"
sys.executable, sys.base_prefix = __file__, "/imitated/" + version
sys.version_info = (*map(int, version.split(".")), 0, "final", 0)
for name in ("ensurepip", "pip", "venv"):
  sys.modules[name] = None if name == {without!r} else sys

def log(*words):
  with open("log", "a") as file:
    print(version, *words, file=file)

match sys.argv[1:]:
  case ["--version"]:
    print("Python", version)
  case ["-c", code, *arguments]:
    sys.argv = ["-c", *arguments]
    exec(code)
  case ["-m", "venv", "--clear", folder]:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder + "/bin")
    shutil.copy(__file__, folder + "/bin/python")
    for tool in ("ruff", "mypy"):
      shutil.copy({true!r}, folder + "/bin/" + tool)
  case ["-m", "pip", "freeze"]:
    print("jax==0." + version)
  case ["-m", "pip", *arguments]:
    log("pip", *arguments)
  case ["-m", "pytest", *_]:
    log("pytest")
    sys.exit(os.path.exists("fail-" + version))
"""


def imitate(path: pathlib.Path, version: str, without: str = "") -> pathlib.Path:
  """Writes a command that is Python of this version and makes environments.

  It writes what it installs, and that it tests, into the file `log`. Its tests fail where there is
  a file `fail-VERSION`.

  Args:
    path: Where to write it.
    version: As "3.13".
    without: A module that it lacks: ensurepip, pip or venv.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    _COMMAND.format(
      interpreter=sys.executable, version=version, without=without, true=shutil.which("true")
    )
  )
  path.chmod(0o755)
  return path
