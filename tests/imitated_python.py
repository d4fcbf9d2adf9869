"""Commands that behave like Python of another version, for the tools that look for one."""

import pathlib
import sys

_COMMAND = """#!{interpreter} -IS
import sys

sys.executable, sys.base_prefix = __file__, "/imitated/{version}"
sys.version_info = ({numbers}, 0, "final", 0)
for name in ("ensurepip", "pip", "venv"):
  sys.modules[name] = None if name == {without!r} else sys
match sys.argv[1:]:
  case ["-c", code, *arguments]:
    sys.argv = ["-c", *arguments]
    exec(code)
  case ["-m", "venv", "--clear", folder]:
    import os
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder + "/bin")
    shutil.copy(__file__, folder + "/bin/python")
  case ["-m", "pip", *arguments]:
    with open("pip.log", "a") as log:
      print(*arguments, file=log)
"""


def imitate(path: pathlib.Path, version: str, without: str = "") -> pathlib.Path:
  """Writes a command that is Python of this version and makes environments.

  Args:
    path: Where to write it.
    version: As "3.13".
    without: A module that it lacks: ensurepip, pip or venv.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  numbers = version.replace(".", ", ")
  path.write_text(
    _COMMAND.format(interpreter=sys.executable, version=version, numbers=numbers, without=without)
  )
  path.chmod(0o755)
  return path
