"""Every network of the catalog is, layer by layer, the one that golden_networks.txt says."""

import difflib
import functools

import golden
import pytest

from resnet_jax.models import cost, create, image_shape, names


@pytest.fixture(scope="module")
def expected():
  return golden.sections()


def test_the_file_has_exactly_the_networks_of_the_catalog(expected):
  assert tuple(expected) == names()


# The deepest take as long to describe as all others together.
DEEPEST = ("resnet1202", "preact_resnet1001")


@pytest.mark.parametrize(
  "name",
  [pytest.param(n, marks=pytest.mark.long) if n in DEEPEST else n for n in names()],
)
def test_a_network_is_layer_by_layer_the_one_in_the_file(name, expected):
  actual, wanted = golden.describe(name), expected.get(name, "")
  if actual != wanted:
    lines = (text.splitlines() for text in (wanted, actual))
    diff = "\n".join(difflib.unified_diff(*lines, golden.FILE.name, "computed", lineterm="", n=1))
    pytest.fail(
      f"{name} is not what it was:\n{diff}\n"
      f"If it should be so: {golden.COMMAND}, and review what git diff says.",
      pytrace=False,
    )


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_the_file_counts_what_cost_counts_of_the_program_for_this_device(name, expected):
  result = cost(create(name), image_shape(name))
  assert f"{result.macs:,} multiply-adds each" in expected[name]
  assert f"params: {result.params:,} numbers" in expected[name]


def test_what_differs_in_one_field_differs_in_the_text():
  make = functools.partial(create, "resnet50", stage_sizes=(1, 2, 1, 1))
  changes = {
    "stride_in": "3x3",
    "conv_padding": "same",
    "pool_padding": (1, 1),
    "groups": 2,
    "output_stride": 16,
    "projection": "pool_conv",
    "bn_epsilon": 1e-3,
    "transition": "last",
    "activation": "identity",
  }
  models = [make(), *(make(**{field: value}) for field, value in changes.items())]
  texts = {golden.describe("resnet50", model) for model in models}
  assert len(texts) == len(models)
