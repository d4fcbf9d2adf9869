"""Every field that a user can set reaches what it names; a field without a row fails a test.

A row of the table names a field, at least two values of it, what to measure of a run that is built
with each, and a formula from the value to the number expected. See `table.Row`.
"""

import ast
import dataclasses
import pathlib

import benchmark_rows
import loop_rows
import network_rows
import optimizer_rows
import protocol_rows
import pytest
import rate_rows
import resident_rows
import speed_rows
import step_rows
import streaming_rows
from runs import BASE
from table import agree, check, fields_of, kinds_of, with_fields

import resnet_jax
from resnet_jax import models
from resnet_jax.models.config import configurable_fields
from resnet_jax.training import Config

ROWS = (
  *rate_rows.ROWS,
  *optimizer_rows.ROWS,
  *step_rows.ROWS,
  *loop_rows.ROWS,
  *resident_rows.ROWS,
  *streaming_rows.ROWS,
  *network_rows.ROWS,
)
NETWORKS = {"resnet18": network_rows.RESNET_ROWS, "vgg16": network_rows.VGG_ROWS}


# Other dataclasses that a user fills in on a command line, and their rows.
OTHERS = (
  (protocol_rows.PROTOCOL, protocol_rows.ROWS),
  (benchmark_rows.STEP, benchmark_rows.STEP_ROWS),
  (benchmark_rows.INPUT, benchmark_rows.INPUT_ROWS),
  (benchmark_rows.COMPILE, benchmark_rows.COMPILE_ROWS),
  (speed_rows.PEERS, speed_rows.PEERS_ROWS),
  (speed_rows.START, speed_rows.START_ROWS),
  (speed_rows.SEEDS, speed_rows.SEEDS_ROWS),
)


@pytest.mark.parametrize("row", [*ROWS, *sum(NETWORKS.values(), ())], ids=str)
def test_each_value_of_a_field_gives_the_number_that_its_formula_gives(row):
  check(BASE, row)


@pytest.mark.parametrize(
  ("base", "row"), [pytest.param(base, row, id=str(row)) for base, rows in OTHERS for row in rows]
)
def test_each_value_of_an_option_gives_the_number_that_its_formula_gives(base, row):
  check(base, row)


def test_every_field_of_a_config_has_a_row():
  assert set(fields_of(Config)) == {row.field for row in ROWS}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_field_of_a_network_that_a_config_can_set_has_a_row(name):
  fields = {f"model.overrides.{field}" for field in configurable_fields(models.create(name))}
  alike = {network_rows.ALIKE.field} if name == "vgg16" else set()
  assert fields - alike == {row.field for row in NETWORKS[name]}


@pytest.mark.parametrize(("base", "rows"), OTHERS, ids=lambda each: type(each).__name__)
def test_every_field_that_an_option_sets_has_a_row(base, rows):
  assert {field.name for field in dataclasses.fields(base)} == {row.field for row in rows}


def test_vgg_pads_alike_in_both_ways():
  row = network_rows.ALIKE
  for value in row.values:
    found = row.measure(with_fields(BASE, {**row.beside, row.field: value}))
    assert agree(found, row.expect(value), row.rtol)


def test_every_dataclass_that_is_named_as_settings_is_in_the_table():
  """A config or benchmark that no table reaches would be a place for fields without rows."""
  package = pathlib.Path(resnet_jax.__file__).parent
  named = {
    node.name
    for path in package.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Benchmark", "Protocol"))
  }
  assert named == {kind.__name__ for kind in kinds_of(Config)} | {
    type(base).__name__ for base, _ in OTHERS
  }
