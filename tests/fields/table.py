"""What a row of the table is: a field, its values, and the number that each of them stands for."""

import dataclasses
import functools
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from resnet_jax.models import ModelConfig
from resnet_jax.run.config import to_json


class Row(NamedTuple):
  """A field that a user can set, and evidence that it reaches what it names.

  Attributes:
    field: Its dotted path.
    values: At least two values; the first two have to give different numbers.
    measure: From a config with such a value to the quantity that the field names.
    expect: From a value to that quantity, by a formula that shares nothing with the product.
    beside: Other fields by dotted path, without which the field would mean nothing.
    rtol: Tolerance relative to the largest number of each array expected.
  """

  field: str
  values: tuple[Any, ...]
  measure: Callable[[Any], Any]
  expect: Callable[[Any], Any]
  beside: Mapping[str, Any] = {}
  rtol: float = 1e-5

  def __str__(self) -> str:
    return self.field


def check(base: Any, row: Row) -> None:
  """Asserts that each value of a row gives the number that its formula gives."""
  wanted = [row.expect(value) for value in row.values]
  assert not agree(*wanted[:2], row.rtol), f"{row.field}: both values stand for {wanted[0]}"
  for value, want in zip(row.values, wanted, strict=True):
    found = row.measure(with_fields(base, {**row.beside, row.field: value}))
    assert agree(found, want, row.rtol), f"{row.field}={value!r} gives {found}, expected {want}"


def agree(found: Any, want: Any, rtol: float) -> bool:
  """Whether two trees of arrays, lists, texts and sets are equal, up to a tolerance of numbers."""
  leaves, structure = jax.tree.flatten(want, is_leaf=_is_list)
  others, other_structure = jax.tree.flatten(found, is_leaf=_is_list)
  return structure == other_structure and all(
    _agrees(a, b, rtol) for a, b in zip(others, leaves, strict=True)
  )


def _is_list(node: Any) -> bool:
  return isinstance(node, list | tuple)


def _agrees(a: Any, b: Any, rtol: float) -> bool:
  if np.asarray(b).dtype.kind not in "biuf":
    return bool(np.all(a == b))
  a, b = np.asarray(a), np.asarray(b, np.float64)
  # What is zero but for rounding, such as the gradient of a bias before batch norm, agrees too.
  tolerance = rtol * np.abs(b).max(initial=0) + 1e-14
  return a.shape == b.shape and a.dtype.kind in "biuf" and np.allclose(a, b, 0, tolerance)


def with_fields(base: Any, fields: Mapping[str, Any]) -> Any:
  """A copy of a config with other values, by dotted path; those of overrides may be new."""
  for path, value in fields.items():
    base = _replaced(base, path.split("."), value)
  return base


def _replaced(node: Any, path: list[str], value: Any) -> Any:
  name, *rest = path
  if isinstance(node, Mapping):
    return {**node, name: value}
  if rest:
    value = _replaced(getattr(node, name), rest, value)
  return dataclasses.replace(node, **{name: value})


def fields_of(kind: type, path: str = "") -> Iterator[str]:
  """The dotted paths of all fields of a dataclass and of those within it, but for a network's."""
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    here = f"{path}{field.name}"
    if dataclasses.is_dataclass(hints[field.name]) and hints[field.name] is not ModelConfig:
      yield from fields_of(hints[field.name], f"{here}.")
    elif hints[field.name] is ModelConfig:
      yield f"{here}.name"
    else:
      yield here


def kinds_of(kind: type) -> set[type]:
  """A dataclass and all that are within it."""
  hints = typing.get_type_hints(kind).values()
  return {kind}.union(*(kinds_of(hint) for hint in hints if dataclasses.is_dataclass(hint)))


def remembered(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """A function of a config that is called once for each, as training takes seconds."""

  @functools.cache
  def by_text(text: str, wide: bool) -> Any:
    del wide
    return function(configs[text])

  configs: dict[str, Any] = {}

  def call(config: Any) -> Any:
    text = json.dumps(to_json(config))
    configs[text] = config
    return by_text(text, jax.config.jax_enable_x64)

  return call
