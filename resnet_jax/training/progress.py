"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time

import tqdm


class Progress:
  """Progress over steps, in images."""

  def __init__(self, steps: int, done: int, batch_size: int):
    """Shows a bar from step `done` to `steps` if standard error is a terminal."""
    self._batch_size = batch_size
    self._steps = steps
    self._bar = tqdm.tqdm(
      total=steps * batch_size,
      initial=done * batch_size,
      unit=" images",
      unit_scale=True,
      dynamic_ncols=True,
      disable=not sys.stderr.isatty(),
    )
    self._start = (time.monotonic(), done)

  def advance(self) -> None:
    """One step more."""
    self._bar.update(self._batch_size)

  def train(self, step: int, values: dict[str, float]) -> None:
    """Shows a record of the training metrics."""
    if not self._bar.disable:
      self._bar.set_postfix_str(f"loss {values['loss']:.4f}, accuracy {values['accuracy']:.2%}")
      return
    start, done = self._start
    rate = (step - done) / max(time.monotonic() - start, 1e-9)
    left = (self._steps - step) / rate if rate else 0.0
    speed = values.get("images_per_second")
    self.say(
      f"step {step}/{self._steps}  train loss {values['loss']:.4f}  accuracy "
      f"{values['accuracy']:.2%}  {f'{speed:,.0f} images/s  ' if speed else ''}"
      f"{tqdm.tqdm.format_interval(left)} left"
    )

  def evaluation(self, step: int, split: str, values: dict[str, float]) -> None:
    """Shows the result of an evaluation."""
    average = ""
    if "ema_accuracy" in values:
      average = f" (average weights {values['ema_accuracy']:.2%})"
    self.say(
      f"step {step}/{self._steps}  {split} loss {values['loss']:.4f}  accuracy "
      f"{values['accuracy']:.2%}{average}  of {values['examples']:,} images"
    )

  def say(self, line: str) -> None:
    """A line above the bar."""
    tqdm.tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()

  def close(self) -> None:
    """Takes the bar down."""
    self._bar.close()
