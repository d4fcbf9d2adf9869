"""What every test needs before jax starts: several CPU devices, and a compilation cache.

chex silently skips the pmap variant of a test where there is one device, and the properties of
batch norm, evaluation and the step across devices need more than one. XLA reads its flags when jax
makes its first backend, so they are set here, before any test imports jax.

Most of the time of the tests is that of compiling. So XLA compiles quickly; a cache of this
session's own lets each program be compiled once, whichever tests and processes need it; and what a
file has compiled is dropped after it, or the process would grow to gigabytes.
"""

import atexit
import logging
import os
import pathlib
import signal
import tempfile

from quick_compilation import OPTIONS, known_to_xla

DEVICES = 4
_DEVICE_COUNT = "--xla_force_host_platform_device_count"

if "PYTEST_XDIST_WORKER" not in os.environ:  # else the session's first process has set them
  _flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICE_COUNT)]
  _flags = [*known_to_xla(OPTIONS), *_flags, f"{_DEVICE_COUNT}={DEVICES}"]
  os.environ["XLA_FLAGS"] = " ".join(_flags)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix="resnet_jax-tests-", ignore_cleanup_errors=True)
  atexit.register(_cache.cleanup)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Or a machine with one GPU would be back at one device; JAX_PLATFORMS from outside still wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
  """Makes `chex.assert_max_traces` count per test: its counter is one global of the process."""
  chex.clear_trace_counter()


@pytest.fixture(autouse=True, scope="module")
def _drop_compiled_programs():
  """Frees what a file of tests has compiled."""
  yield
  jax.clear_caches()


@pytest.fixture
def call_here(capfd):
  """Runs a command within this process: its status, what it printed, and its errors."""
  from resnet_jax import cli

  level, listens = logging.getLogger("absl").level, signal.getsignal(signal.SIGTERM)

  def call_here(*arguments) -> tuple[int, str, str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
      cli.main([*map(str, arguments)])
    return end.value.code, *capfd.readouterr()

  yield call_here
  logging.getLogger("absl").setLevel(level)
  signal.signal(signal.SIGTERM, listens)


@pytest.fixture
def x64():
  """Float64 within a test: what must be exact is compared where rounding cannot hide a defect."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
  """The folder of real data: $RESNET_JAX_TEST_DATA, or shared/data beside the repository."""
  default = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
  folder = pathlib.Path(os.environ.get("RESNET_JAX_TEST_DATA", default))
  if not folder.is_dir():
    pytest.skip(f"no real data: {folder} is absent (set RESNET_JAX_TEST_DATA to its folder)")
  return folder
