"""What a streaming data set is read from: still-encoded images by number, with their labels."""

from collections.abc import Sequence
from typing import Protocol

# The encoded image and its label.
Example = tuple[bytes, int]


class UndecodableError(ValueError):
  """The bytes of one example are not a whole image (or its record not a labelled image)."""


class ExampleSource(Protocol):
  """Random access to one split's encoded examples; every method may be called from any thread.

  A source that names this class as its base has `read_many` and `identity` from it.
  """

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of each class, in the order of the labels."""
    ...

  @property
  def identity(self) -> str:
    """A hash of which files these are: a run that resumes must find the same.

    Independent of the folder they lie in; empty where there is nothing to tell by.
    """
    return ""

  def __len__(self) -> int: ...

  def read(self, i: int) -> Example:
    """The encoded image of example i and its label.

    Raises:
      UndecodableError: If the record is there but is not a labelled image.
      OSError: If it cannot be read at all.
    """
    ...

  def read_many(self, numbers: Sequence[int]) -> list[Example | UndecodableError | OSError]:
    """As `read` for each of the numbers, in their order.

    What `read` would have raised for one of them stands in its place, so that an error of one
    example costs no other. Sources for which many reads at once are cheaper than one after the
    other say so.
    """
    return [self._read_or_error(i) for i in numbers]

  def _read_or_error(self, i: int) -> Example | UndecodableError | OSError:
    try:
      return self.read(i)
    except (UndecodableError, OSError) as error:
      return error

  def locate(self, i: int) -> str:
    """Where example i is stored, for messages."""
    ...
