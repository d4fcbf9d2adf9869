"""The names of ImageNet's thousand classes: WordNet's numbers, and its words."""

import functools
import importlib.resources

_FILE = "imagenet_classes.txt"


def imagenet_class_names() -> tuple[str, ...]:
  """WordNet's words for the classes of ILSVRC 2012, in the order of the labels."""
  return tuple(words for _, words in _classes())


def imagenet_synsets() -> tuple[str, ...]:
  """Their numbers in WordNet, n01440764 first: folders of ImageNet's pictures are called so."""
  return tuple(synset for synset, _ in _classes())


@functools.cache
def _classes() -> tuple[tuple[str, str], ...]:
  text = importlib.resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
  pairs = (line.split(" ", 1) for line in text.splitlines())
  return tuple((synset, words) for synset, words in pairs)
