"""The file system of a bucket, or of any other address that fsspec knows; and asking it again.

A remote store answers late, and now and then not at all: what failed is asked for again, a few
times, before it is an error.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from resnet_jax.errors import UserError

T = TypeVar("T")

INSTALL_BUCKET = 'pip install "resnet_jax[bucket]"'

# Seconds before each further attempt at a remote read.
RETRY_SECONDS = (0.25, 1.0, 4.0)
# A library that takes so many seconds to give up has tried several times by itself.
_LIBRARYS_OWN_RETRIES = 5.0
# They would fail the same way again.
LASTING = (FileNotFoundError, PermissionError)


def open_filesystem(address: str) -> Any:
  """The fsspec file system of an address.

  Raises:
    UserError: fsspec, or its part for such addresses, is not installed, or refuses.
  """
  try:
    import fsspec

    return fsspec.core.url_to_fs(address)[0]
  except ImportError as error:
    raise UserError(f"{address} cannot be opened ({error}): {INSTALL_BUCKET}") from None
  except Exception as error:  # No such protocol, no credentials: any class of the store's library.
    raise UserError(f"{address} cannot be opened ({reason_of(error)})") from None


def answered(ask: Callable[[], T], address: str) -> T:
  """What a store says when asked, again if need be.

  Raises:
    FileNotFoundError: It says that there is nothing.
    OSError: It does not answer, or denies it; the text says what, and of which address.
  """
  for seconds in (*RETRY_SECONDS, None):
    start = time.monotonic()
    try:
      return ask()
    except (FileNotFoundError, NotADirectoryError) as error:
      raise FileNotFoundError(2, "No such file", address) from error
    except Exception as error:  # Of any class of the store's library.
      persisted = time.monotonic() - start > _LIBRARYS_OWN_RETRIES
      if seconds is None or persisted or isinstance(error, LASTING):
        raise OSError(f"{address} does not answer ({reason_of(error)})") from None
      time.sleep(seconds)
  raise AssertionError


def reason_of(error: BaseException) -> str:
  """What an error of a store's library says, in one line."""
  first, *_ = str(error).splitlines() or [""]
  return f"{type(error).__name__}: {first}" if first else type(error).__name__
