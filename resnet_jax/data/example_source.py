"""What a streaming data set is read from: still-encoded images by number, with their labels."""

from typing import Protocol


class UndecodableError(ValueError):
  """The bytes of one example are not a whole image (or its record not a labelled image)."""


class ExampleSource(Protocol):
  """Random access to one split's encoded examples; every method may be called from any thread."""

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of each class, in the order of the labels."""
    ...

  def __len__(self) -> int: ...

  def read(self, i: int) -> tuple[bytes, int]:
    """The encoded image of example i and its label.

    Raises:
      UndecodableError: If the record is there but is not a labelled image.
      OSError: If it cannot be read at all.
    """
    ...

  def locate(self, i: int) -> str:
    """Where example i is stored, for messages."""
    ...
