"""Files that readers see whole, whenever the process that writes them dies."""

import pathlib


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file under a temporary name and renames it: it is there as a whole, or as before."""
  new = path.with_name(path.name + ".new")
  new.write_bytes(content)
  new.replace(path)
