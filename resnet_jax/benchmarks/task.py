"""What the sides of the input benchmark have to do, the same for each."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class InputTask:
  """The training view of the same examples, by as many threads, in batches as large.

  Attributes:
    dataset: Name in tensorflow-datasets.
    data_dir: Where it lies prepared; None for the default.
    examples: The first so many training examples, in the order of the prepared files, are read over
      and over.
    batch_size: Images in a batch.
    threads: Threads, or worker processes, that decode.
    image_size: Height and width of the crop, in pixels.
    short_sides: Smallest and largest short side, in pixels, drawn uniformly, both included.
    config: The data section of a config as JSON, which our own side is opened with.
    jpegs: A folder with the same examples as one JPEG file each; "" where no peer needs it.
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
    """Makes a pair of what JSON has as a list."""
    object.__setattr__(self, "short_sides", tuple(self.short_sides))
