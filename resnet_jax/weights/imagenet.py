"""The names of ImageNet's thousand classes."""

import importlib.resources

_FILE = "imagenet_classes.txt"


def imagenet_class_names() -> tuple[str, ...]:
  """WordNet's words for the classes of ILSVRC 2012, in the order of the labels.

  That is the order of their numbers in WordNet, n01440764 first, as every library has it.
  """
  text = importlib.resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
  return tuple(text.splitlines())
