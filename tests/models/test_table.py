"""The catalog and one network's layers as text."""

import re

import pytest

from resnet_jax.models import cost, create, image_shape, names, table
from resnet_jax.models.cost import Cost
from resnet_jax.models.table import catalog_table, layer_table

SHORT = {"stage_sizes": (1, 2, 1, 2)}


def numbers(line):
  return [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", line)]


def test_the_catalog_has_a_line_for_each_network(monkeypatch):
  monkeypatch.setattr(table, "cost", lambda *_: Cost(1, 2))
  lines = catalog_table().splitlines()
  assert [line.split()[0] for line in lines] == ["name", *names()]


def test_the_catalog_says_what_cost_counts(monkeypatch):
  few = ("resnet18", "resnet50", "resnet20", "preact_resnet110", "vgg16")
  monkeypatch.setattr(table, "names", lambda: few)
  _, *lines = catalog_table().splitlines()
  counted = [cost(create(name), image_shape(name)) for name in few]
  assert [numbers(line)[-2:] for line in lines] == [[each.params, each.macs] for each in counted]


@pytest.mark.parametrize(
  ("name", "overrides"),
  [
    ("resnet50", {}),
    ("resnet50", SHORT | {"stem": "deep", "projection": "pool_conv", "squeeze_excitation": 16}),
    (
      "resnet50",
      SHORT | {"groups": 32, "width_per_group": 4, "output_stride": 8, "shortcut": "C"},
    ),
    ("preact_resnet200", SHORT),
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


def layers_of(name, **fields):
  """Output and lines of each part."""
  parts = {}
  for line in layer_table(create(name, **fields), image_shape(name)).splitlines()[1:-1]:
    texts = re.split(r"  +", line.strip())
    if not line.startswith("  "):
      parts[texts[0]] = texts[1:-2]
    else:
      parts[list(parts)[-1]].append(texts[0])
  return parts


def test_resnet50_is_the_papers_table_1():
  table = layer_table(create("resnet50"), (224, 224, 3))
  assert [numbers(line)[-2:] for line in table.splitlines() if not line.startswith("  ")][1:] == [
    [9_536, 118_013_952],
    [215_808, 667_942_912],
    [1_219_584, 950_534_144],
    [7_098_368, 1_387_266_048],
    [14_964_736, 732_168_192],
    [2_049_000, 2_048_000],
    [25_557_032, 3_857_973_248],
  ]
  assert layers_of("resnet50") == {
    "stem (conv1)": ["112x112x64", "7x7, 64, stride 2"],
    "stage1 (conv2_x)": [
      "56x56x256",
      "3x3 max pool, stride 2",
      "[1x1, 64; 3x3, 64; 1x1, 256] x 3",
      "block1: shortcut 1x1, 256",
    ],
    "stage2 (conv3_x)": [
      "28x28x512",
      "[1x1, 128; 3x3, 128; 1x1, 512] x 4",
      "block1: conv1 stride 2; shortcut 1x1, 512, stride 2",
    ],
    "stage3 (conv4_x)": [
      "14x14x1024",
      "[1x1, 256; 3x3, 256; 1x1, 1024] x 6",
      "block1: conv1 stride 2; shortcut 1x1, 1024, stride 2",
    ],
    "stage4 (conv5_x)": [
      "7x7x2048",
      "[1x1, 512; 3x3, 512; 1x1, 2048] x 3",
      "block1: conv1 stride 2; shortcut 1x1, 2048, stride 2",
    ],
    "head": ["1000", "average pool, 1000-d fc"],
  }


def test_the_table_shows_gates_and_shortcuts_beside_the_branch():
  found = layers_of("resnet20", addition="exclusive_gate")
  assert found["stage2"][1:] == [
    "[3x3, 32; 3x3, 32 | gate 1x1, 32] x 3",
    "block1: conv1 stride 2; shortcut padded to 32, stride 2",
  ]
  resnet_d = {"stem": "deep", "projection": "pool_conv", "stride_in": "3x3"}
  assert layers_of("resnet50", **resnet_d)["stage2 (conv3_x)"][2:] == [
    "block1: conv2 stride 2; shortcut 2x2 average pool, stride 2, 1x1, 512"
  ]
  dilated = layers_of("resnet18", projection="pool_conv", output_stride=8)
  assert dilated["stage3 (conv4_x)"][3:] == ["block1: shortcut 2x2 average pool, 1x1, 256"]
  assert dilated["stage4 (conv5_x)"][3:] == [
    "block1: shortcut 2x2 average pool, dilation 2, 1x1, 512"
  ]


def test_the_table_says_how_the_last_map_is_pooled():
  assert layers_of("vgg16")["hidden1"] == ["4096", "flatten, 4096-d fc"]
  assert layers_of("vgg16", head="max", hidden_features=())["head"][1] == "max pool, 1000-d fc"
  assert layers_of("resnet20", num_classes=0)["head"] == ["average pool"]
  assert "head" not in layers_of("resnet20", head="none")


def test_images_that_a_network_cannot_take_are_refused():
  with pytest.raises(ValueError, match="images of 16x16 pixels"):
    layer_table(create("resnet18"), (16, 16, 3))
