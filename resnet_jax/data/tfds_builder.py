"""Running the builders of tensorflow-datasets.

The only file that imports tensorflow-datasets or TensorFlow, and only inside functions. Finding and
reading prepared data (`tfds_prepared.py`) needs no TensorFlow; preparing does.
"""

import contextlib
import pathlib
import sys
import tarfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Literal

from resnet_jax.data.prepared import resolve_data_dir
from resnet_jax.errors import UserError

FileFormat = Literal["tfrecord", "array_record"]

INSTALL = 'pip install "resnet_jax[tfds]"'
# What tensorflow-datasets does not download itself.
MANUAL_FILES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}
MANUAL_SITES = {"imagenet2012": "https://image-net.org/download-images (registration needed)"}


def import_tfds() -> Any:
  """The module tensorflow_datasets (0.4 s, 90 MB; TensorFlow stays unloaded).

  Raises:
    UserError: If it is not installed.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError(f"tensorflow-datasets cannot be imported ({error}): {INSTALL}") from None
  return tfds


def build(
  name: str,
  data_dir: str | None,
  manual_dir: str | None,
  file_format: FileFormat,
  check: Callable[[str, Any], object] = lambda name, info: None,
) -> None:
  """Downloads and prepares a data set with its own tfds builder.

  Args:
    name: Name in tensorflow-datasets.
    data_dir: The data directory, a local one; see `resolve_data_dir`.
    manual_dir: Where the files lie that must be downloaded by hand; None for
      DATA_DIR/downloads/manual, where tensorflow-datasets looks by itself.
    file_format: In which format to write the records.
    check: Called with the name and the builder's `DatasetInfo` before anything is downloaded; what
      it raises ends the work.

  Raises:
    UserError: The name is not one of a builder's, TensorFlow or a file is missing, or the network,
      the disk or an archive fails.
  """
  root = resolve_data_dir(data_dir)
  manual = pathlib.Path(manual_dir).expanduser() if manual_dir else root / "downloads" / "manual"
  _require_manual_files(name, manual)
  tfds = import_tfds()
  tensorflow = _import_tensorflow()
  builder = _make_builder(tfds, name, root, file_format)
  check(name, builder.info)
  if name not in MANUAL_FILES:
    _require_what_is_put_by_hand(name, builder, manual)
    _require_network(builder.url_infos, root / "downloads", manual)
  with _progress(tfds, pathlib.Path(builder.data_path).parent):
    try:
      builder.download_and_prepare(
        download_dir=root / "downloads",
        download_config=tfds.download.DownloadConfig(manual_dir=manual),
      )
    except (
      ImportError,  # Some builders need packages of their own.
      OSError,  # The network, the disk, permissions; TensorFlow has its own kind.
      tensorflow.errors.OpError,
      tarfile.TarError,
      tfds.download.DownloadError,
      tfds.download.download_manager.NonMatchingChecksumError,
    ) as error:
      reason, *_ = str(error).splitlines() or [type(error).__name__]
      archives = MANUAL_FILES.get(name, tuple(builder.url_infos))
      shown = " and ".join(archives[:2]) + (" and so on" if len(archives) > 2 else "")
      by_hand = f"download {shown or 'its files'} into {manual} again"
      raise UserError(
        f"tensorflow-datasets could not prepare {name} ({reason}): mend that, or {by_hand}"
      ) from None


def _make_builder(tfds: Any, name: str, root: pathlib.Path, file_format: FileFormat) -> Any:
  try:
    return tfds.builder(name, data_dir=root, file_format=file_format)
  except (
    ImportError,
    ValueError,  # No such configuration.
    AssertionError,  # No such version.
    tfds.core.DatasetNotFoundError,
  ) as error:
    reason, *_ = str(error).splitlines() or [type(error).__name__]
    raise UserError(f"tensorflow-datasets has no builder of {name} here: {reason}") from None


def _require_manual_files(name: str, manual: pathlib.Path) -> None:
  # Missing one of them, tensorflow-datasets would prepare a data set that lacks that split.
  missing = [file for file in MANUAL_FILES.get(name, ()) if not (manual / file).is_file()]
  if missing:
    raise UserError(
      f"{name} must be downloaded by hand: put {' and '.join(missing)}, from "
      f"{MANUAL_SITES[name]}, into {manual} (or name their folder with --manual-dir)"
    )


def _require_what_is_put_by_hand(name: str, builder: Any, manual: pathlib.Path) -> None:
  """The same for builders that say in words what they need."""
  instructions = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
  if instructions and not (manual.is_dir() and any(manual.iterdir())):
    raise UserError(
      f"{name} must be downloaded by hand into {manual} (or name its folder with --manual-dir): "
      f"{' '.join(instructions.split())}"
    )


def _require_network(urls: dict[str, Any], downloads: pathlib.Path, manual: pathlib.Path) -> None:
  """Fails at once where tensorflow-datasets would try for some minutes first."""
  # It writes an .INFO beside each download that it keeps: with one there, it may need no network.
  if any(downloads.rglob("*.INFO")):
    return
  asked: set[str] = set()
  for url, info in urls.items():
    host = urllib.parse.urlsplit(url).netloc
    if host in asked or (manual / (info.filename or "")).is_file():
      continue
    asked.add(host)  # Once each: some sets come in hundreds of files.
    try:
      urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
      pass  # The host answers; what it makes of the real request is for tensorflow-datasets to say.
    except OSError as error:
      reason = getattr(error, "reason", error)
      raise UserError(
        f"{url} is out of reach ({reason}): check the network, or put that file into {manual}"
      ) from None


def _import_tensorflow() -> Any:
  """TensorFlow, without the GPUs: it is here to write files, and JAX needs their memory."""
  try:
    import tensorflow
  except ImportError as error:
    raise UserError(f"TensorFlow cannot be imported ({error}): {INSTALL}") from None
  tensorflow.config.set_visible_devices([], "GPU")
  return tensorflow


@contextlib.contextmanager
def _progress(tfds: Any, folder: pathlib.Path, seconds: float = 60) -> Iterator[None]:
  """Shows tfds's own progress bars on a terminal, elsewhere a line a minute."""
  if sys.stderr.isatty():
    yield
    return
  done = threading.Event()

  def report() -> None:
    while not done.wait(seconds):
      written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
      print(f"  {written / 1e9:.2f} GB written to {folder}", flush=True)

  tfds.disable_progress_bar()
  reporter = threading.Thread(target=report, daemon=True)
  reporter.start()
  try:
    yield
  finally:
    done.set()
    reporter.join()
    tfds.enable_progress_bar()
