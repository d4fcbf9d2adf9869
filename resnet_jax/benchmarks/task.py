"""The task that every side of the input benchmark gets."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class InputTask:
  """The examples, view, batch size and threads that all sides share.

  Attributes:
    dataset: Name in tensorflow-datasets.
    data_dir: The folder of the prepared data set; None for the default.
    examples: Number of training examples that are read repeatedly, the first in the prepared files.
    batch_size: Images per batch.
    threads: Number of decoding threads or worker processes.
    image_size: Height and width of the crop, in pixels.
    short_sides: Smallest and largest short side, in pixels, drawn uniformly, both included.
    config: The data section of a config as JSON, for our side.
    jpegs: A folder with the same examples as one JPEG file each; "" if no peer needs it.
  """

  dataset: str
  data_dir: str | None
  examples: int
  batch_size: int
  threads: int
  image_size: int
  short_sides: tuple[int, int]
  config: dict[str, Any]
  jpegs: str = ""

  def __post_init__(self) -> None:
    """Converts the list of short sides from JSON to a tuple."""
    object.__setattr__(self, "short_sides", tuple(self.short_sides))
