"""The documents: every Python block runs, and what they link to or name is there."""

import ast
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [
  path
  for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
  if path.exists()
]
# Two spaces or more before a fence would be a block within a list: none of the documents has one.
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# `folder/file.suffix`, or `folder/file.py:symbol`, of the folders that belong to the repository.
NAMED = re.compile(
  r"`((?:resnet_jax|experiments|tests|docs)/[\w./-]*\w/?|setup\.cfg|pyproject\.toml|Makefile)"
  r"(?::([\w.]+))?`"
)


def python_blocks():
  blocks = []
  for path in DOCUMENTS:
    text = path.read_text()
    for match in FENCE.finditer(text):
      if match[1] == "python":
        line = text.count("\n", 0, match.start(2)) + 1
        where = f"{path.relative_to(ROOT)}:{line}"
        blocks.append(pytest.param(path, line, match[2], id=where))
  return blocks


def prose(path):
  return FENCE.sub("", path.read_text())


def test_there_are_documents_with_blocks():
  assert len(DOCUMENTS) >= 4
  assert len(python_blocks()) >= 9


@pytest.mark.parametrize(("path", "line", "source"), python_blocks())
def test_a_python_block_runs_on_its_own(path, line, source):
  # Newlines put each line of the block at its line of the document, in tracebacks too.
  code = compile("\n" * (line - 1) + source, str(path), "exec", dont_inherit=True)
  exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files_and_headings(path):
  for target in LINK.findall(prose(path)):
    if re.match(r"\w+:", target):
      continue
    file, _, anchor = target.partition("#")
    linked = path.parent / file if file else path
    assert linked.exists(), f"{path.name} links to {target}"
    if anchor and linked.suffix == ".md":
      headings = re.findall(r"^#+ (.*)$", prose(linked), re.MULTILINE)
      anchors = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
      assert anchor in anchors, f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_symbols_that_are_named_exist(path):
  for name, symbol in NAMED.findall(prose(path)):
    assert (ROOT / name).exists(), f"{path.name} names {name}"
    if symbol and name.endswith(".py"):
      assert has_symbol(ROOT / name, symbol), f"{path.name} names {name}:{symbol}"


def has_symbol(file, symbol):
  """Whether a file of the package, or a test, defines a dotted name (a config's field too)."""
  if file.is_relative_to(ROOT / "resnet_jax"):
    value = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    *owners, last = symbol.split(".")
    for part in owners:
      value = getattr(value, part, None)
    return hasattr(value, last) or last in getattr(value, "__annotations__", {})
  tree = ast.parse(file.read_text())
  return any(getattr(node, "name", None) == symbol for node in ast.walk(tree))


def test_the_table_of_imports_is_that_of_the_code():
  text = (ROOT / "docs" / "architecture.md").read_text()
  table = text.split("## Imports run one way")[1].split("\n## ")[0]
  documented = {}
  for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE):
    documented[row[0]] = set(re.findall(r"`(\w+)`", row[1]))
  assert documented == imports_by_room()


def imports_by_room():
  """The rooms of the package that each room imports, within functions too."""
  package = ROOT / "resnet_jax"
  rooms = {path.parent.name for path in package.glob("*/__init__.py")}
  found = {room: set() for room in (*rooms, "cli")}
  for path in package.rglob("*.py"):
    room = path.relative_to(package).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())) if room in found else ():
      if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "resnet_jax":
        _, *parts = node.module.split(".")
        found[room].update(parts[:1] or [alias.name for alias in node.names])
  return {room: names - {room, "__version__"} for room, names in found.items()}
