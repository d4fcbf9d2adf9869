"""The catalog and one network's layers as text."""

import re

import pytest

from resnet_jax.models import cost, create, image_shape, names
from resnet_jax.models.table import catalog_table, layer_table


def numbers(line):
  return [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", line)]


@pytest.fixture(scope="module")
def catalog():
  return catalog_table().splitlines()


def test_the_catalog_has_a_line_for_each_network(catalog):
  assert [line.split()[0] for line in catalog] == ["name", *names()]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "preact_resnet164", "vgg16"])
def test_the_catalog_says_what_cost_counts(catalog, name):
  (line,) = (line for line in catalog if line.startswith(f"{name} "))
  counted = cost(create(name), image_shape(name))
  assert numbers(line)[-2:] == [counted.params, counted.macs]


@pytest.mark.parametrize(
  ("name", "overrides"),
  [
    ("resnet50", {}),
    ("resnet50", {"stem": "deep", "projection": "pool_conv", "squeeze_excitation": 16}),
    ("resnet50", {"groups": 32, "width_per_group": 4, "output_stride": 8, "shortcut": "C"}),
    ("preact_resnet200", {}),
    ("resnet20", {"addition": "exclusive_gate", "use_bias": True}),
    ("plain20", {"num_classes": 0}),
    ("resnet20", {"norm": None, "head": "none"}),
    ("resnet20", {"scan": True}),
    ("vgg16", {"norm": "batch"}),
  ],
)
def test_the_parts_add_up_to_the_whole_network(name, overrides):
  model = create(name, **overrides)
  _, *parts, total = layer_table(model, image_shape(name)).splitlines()
  rows = [numbers(line)[-2:] for line in parts if not line.startswith("  ")]
  counted = cost(model, image_shape(name))
  assert numbers(total) == [counted.params, counted.macs]
  assert [sum(column) for column in zip(*rows, strict=True)] == [counted.params, counted.macs]


def test_resnet50_is_the_papers_table_1():
  assert layer_table(create("resnet50"), (224, 224, 3)).splitlines() == [
    "part              output      layers                                        parameters  "
    "multiply-adds",
    "stem (conv1)      56x56x64    7x7, 64, stride 2                                  9,536    "
    "118,013,952",
    "                              3x3 max pool, stride 2",
    "stage1 (conv2_x)  56x56x256   [1x1, 64; 3x3, 64; 1x1, 256] x 3                 215,808    "
    "667,942,912",
    "                                block1: shortcut 1x1, 256",
    "stage2 (conv3_x)  28x28x512   [1x1, 128; 3x3, 128; 1x1, 512] x 4             1,219,584    "
    "950,534,144",
    "                                block1: conv1 stride 2, shortcut 1x1, 512",
    "stage3 (conv4_x)  14x14x1024  [1x1, 256; 3x3, 256; 1x1, 1024] x 6            7,098,368  "
    "1,387,266,048",
    "                                block1: conv1 stride 2, shortcut 1x1, 1024",
    "stage4 (conv5_x)  7x7x2048    [1x1, 512; 3x3, 512; 1x1, 2048] x 3           14,964,736    "
    "732,168,192",
    "                                block1: conv1 stride 2, shortcut 1x1, 2048",
    "head              1000        average pool, 1000-d fc                        2,049,000      "
    "2,048,000",
    "total                                                                       25,557,032  "
    "3,857,973,248",
  ]


def test_images_that_a_network_cannot_take_are_refused():
  with pytest.raises(ValueError, match="images of 16x16 pixels"):
    layer_table(create("resnet18"), (16, 16, 3))
