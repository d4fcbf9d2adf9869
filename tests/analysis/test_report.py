"""The table of a report, on its three surfaces: CSV, page and terminal."""

import base64
import csv
import html.parser
import json
import math
import pathlib
from typing import Any

import pytest

from resnet_jax.analysis import curves, report
from resnet_jax.analysis.report import write_report
from resnet_jax.errors import UserError

CONFIG = {
  "model": {"name": "resnet20", "overrides": {}},
  "data": {"dataset": "digits"},
  "batch_size": 64,
  "seed": 0,
}
ENVIRONMENT = {"commit": "0123456789abcdef", "dirty": False, "devices": ["H200", "H200"]}
RECORDS = [
  {"step": 10, "split": "train", "loss": 2.0, "accuracy": 0.25, "images_per_second": 100.0},
  {"step": 10, "split": "validation", "loss": 1.0, "accuracy": 0.5},
  {"step": 20, "split": "train", "loss": 0.5, "accuracy": 0.75, "images_per_second": 3000.0},
  {"step": 20, "split": "validation", "loss": 0.5, "accuracy": 0.9},
  {"step": 30, "split": "train", "loss": 0.125, "accuracy": 0.96, "images_per_second": 2000.0},
  {"step": 30, "split": "validation", "loss": 0.75, "accuracy": 0.875},
]


def make_run(
  path: pathlib.Path,
  records: list[dict] = RECORDS,
  environment: dict[str, Any] | None = ENVIRONMENT,
  **config: Any,
) -> pathlib.Path:
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(CONFIG | config))
  (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
  if environment is not None:
    (path / "environment.json").write_text(json.dumps(environment))
  return path


def rows(output: pathlib.Path) -> list[dict[str, str]]:
  with (output / "runs.csv").open(newline="") as file:
    return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
  """Tags, cells of tables and attributes of a page; every tag must be closed."""

  VOID = ("meta", "img")

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.open: list[str] = []
    self.tags: list[str] = []
    self.attributes: list[tuple[str, str]] = []
    self.cells: list[str] = []
    self.text = ""
    self.feed(path.read_text(encoding="utf-8"))
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in self.VOID:
      self.open.append(tag)
    if tag in ("td", "th"):
      self.cells.append("")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data
    if self.open and self.open[-1] in ("td", "th"):
      self.cells[-1] += data


@pytest.fixture(autouse=True)
def _quick_picture(monkeypatch):
  """Most of the time of a report is the picture's, of which one test here looks at the pixels."""
  monkeypatch.setattr(report, "render_png", lambda figure: b"picture")


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / "new" / "report"


def test_csv_holds_the_numbers_of_the_records(tmp_path, output):
  write_report([make_run(tmp_path / "a")], output)
  (row,) = rows(output)
  assert row == {
    "run": "a",
    "workdir": str(tmp_path / "a"),
    "model": "resnet20",
    "dataset": "digits",
    "steps": "30",
    "batch_size": "64",
    "seed": "0",
    "train_loss": "0.125",
    "train_error_percent": "4",
    "validation_error_percent": "12.5",
    "best_validation_error_percent": "10",
    "best_validation_step": "20",
    "test_error_percent": "",
    "images_per_second_median": "2000",
    "devices": "2 x H200",
    "commit": "0123456789",
  }


def test_best_is_the_last_of_equal_evaluations(tmp_path, output):
  again = {"step": 40, "split": "validation", "loss": 0.5, "accuracy": 0.9}
  write_report([make_run(tmp_path / "a", [*RECORDS, again])], output)
  assert rows(output)[0]["best_validation_step"] == "40"


def test_an_evaluation_that_is_not_finite_is_last_but_never_best(tmp_path, output):
  broken = {"step": 40, "split": "validation", "loss": math.nan, "accuracy": math.nan}
  write_report([make_run(tmp_path / "a", [*RECORDS, broken])], output)
  (row,) = rows(output)
  assert row["validation_error_percent"] == "nan"
  assert row["best_validation_step"] == "20"


def test_test_error_is_shown_only_where_a_test_record_exists(tmp_path, output):
  a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
  assert "test error" not in write_report([a, b], output)
  assert "test error" not in Page(output / "index.html").cells
  with (b / "metrics.jsonl").open("a") as file:
    file.write('{"step": 30, "split": "test", "loss": 1.0, "accuracy": 0.8125}\n')
  assert "test error" in write_report([a, b], output)
  assert "18.75 %" in Page(output / "index.html").cells
  assert [row["test_error_percent"] for row in rows(output)] == ["", "18.75"]


def test_a_run_without_validation_or_environment_has_empty_cells(tmp_path, output):
  write_report([make_run(tmp_path / "a", RECORDS[:1], environment=None)], output)
  (row,) = rows(output)
  assert row["train_error_percent"] == "75"
  empty = ("validation_error_percent", "best_validation_step", "devices", "commit")
  assert {row[name] for name in empty} == {""}


def test_a_run_resumed_elsewhere_shows_all_its_commits_and_devices(tmp_path, output):
  earlier = {"commit": "f" * 40, "dirty": True, "devices": ["cpu"]}
  environment = ENVIRONMENT | {"earlier": [earlier, ENVIRONMENT]}
  write_report([make_run(tmp_path / "a", environment=environment)], output)
  (row,) = rows(output)
  assert row["commit"] == "ffffffffff + changes, 0123456789"
  assert row["devices"] == "1 x cpu, 2 x H200"


def test_the_returned_text_is_an_aligned_table_and_the_place_of_the_page(tmp_path, output):
  long = make_run(tmp_path / "b", model={"name": "preact_resnet164", "overrides": {}})
  text = write_report([make_run(tmp_path / "a"), long], output)
  head, first, second, blank, place = text.splitlines()
  assert len(head) == len(first) == len(second)
  assert first.startswith("resnet20 ") and second.startswith("preact_resnet164 ")
  assert first.index("30") == second.index("30") == head.index("steps") + 3
  assert not blank
  assert str(output / "index.html") in place


def test_the_page_holds_the_picture_and_nothing_from_elsewhere(tmp_path, output, monkeypatch):
  monkeypatch.setattr(report, "render_png", curves.render_png)
  write_report([make_run(tmp_path / "a")], output)
  page = Page(output / "index.html")
  (source,) = [value for name, value in page.attributes if name == "src"]
  picture = base64.b64decode(source.removeprefix("data:image/png;base64,"))
  assert picture.startswith(b"\x89PNG")
  assert picture == (output / "curves.png").read_bytes()
  assert not {"script", "link", "iframe"} & set(page.tags)
  assert not [value for name, value in page.attributes if name == "href"]


def test_the_page_shows_every_run_and_its_numbers(tmp_path, output):
  write_report([make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=7)], output)
  cells = Page(output / "index.html").cells
  assert {"seed=0", "seed=7", "4.00 %", "12.50 %", "10.00 %", "2,000", "2 x H200"} <= set(cells)


@pytest.mark.parametrize("name", ["<b>", "a&b", '"><script>alert(1)<'])
def test_the_page_shows_names_literally(tmp_path, output, name):
  write_report([make_run(tmp_path / name, model={"name": "<i>"})], output)
  page = Page(output / "index.html")
  assert name in page.cells
  assert str(tmp_path / name) in page.cells
  assert "<i>" in page.cells
  assert not {"b", "i", "script"} & set(page.tags)
  assert dict(page.attributes)["alt"] == f"Curves of {name}"


def test_the_page_lists_the_fields_in_which_configs_differ_with_their_values(tmp_path, output):
  model = {"name": "resnet20", "overrides": {"shortcut": "B"}}
  runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=7, model=model)]
  write_report(runs, output)
  cells = Page(output / "index.html").cells
  start = cells.index("model.overrides.shortcut")
  assert cells[start - 2 :] == [
    "run", "seed", "model.overrides.shortcut",
    "seed=0, shortcut=default", "0", "default",
    "seed=7, shortcut=B", "7", "B",
  ]  # fmt: skip


def test_more_differing_fields_than_runs_are_rows(tmp_path, output):
  runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=7, batch_size=8, extra=[1, 2])]
  write_report(runs, output)
  cells = Page(output / "index.html").cells
  assert cells[cells.index("field") :][3:] == [
    "batch_size", "64", "8", "seed", "0", "7", "extra", "none", "1, 2",
  ]  # fmt: skip


def test_the_page_says_when_configs_are_the_same(tmp_path, output):
  write_report([make_run(tmp_path / "a"), make_run(tmp_path / "b")], output)
  assert "the same in every field" in Page(output / "index.html").text


def test_an_earlier_report_is_replaced_and_nothing_else_is_left_behind(tmp_path, output):
  a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
  write_report([a], output)
  (output / "notes.txt").write_text("mine")
  write_report([b], output)
  assert [row["run"] for row in rows(output)] == ["b"]
  assert "/a" not in (output / "index.html").read_text().split("<h2>Runs")[1]
  names = sorted(path.name for path in output.iterdir())
  assert names == ["curves.png", "index.html", "notes.txt", "runs.csv"]


def test_a_failure_to_read_runs_leaves_an_earlier_report_alone(tmp_path, output):
  write_report([make_run(tmp_path / "a")], output)
  before = (output / "index.html").read_bytes()
  with pytest.raises(UserError):
    write_report([tmp_path / "a", tmp_path / "missing"], output)
  assert (output / "index.html").read_bytes() == before


def test_an_output_that_is_a_file_is_the_users_mistake(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="choose another --output"):
    write_report([make_run(tmp_path / "a")], tmp_path / "file")
