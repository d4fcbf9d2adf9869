"""A file server on the loopback interface that lists folders, serves ranges, and can be slow."""

import contextlib
import functools
import http.server
import pathlib
import threading
import time
from collections.abc import Iterator


class RangeServer(http.server.ThreadingHTTPServer):
  """Serves a folder; `address` is its URL.

  Attributes:
    requests: (path, Range header or None) of each GET so far.
    delay: Seconds before each answer.
    failures: How many of the next requests for ranges are answered with 503.
    most_at_once: The largest number of requests that were being answered at the same time.
  """

  request_queue_size = 512
  daemon_threads = True

  def __init__(self, folder: pathlib.Path):
    super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    self.address = f"http://127.0.0.1:{self.server_port}"
    self.requests: list[tuple[str, str | None]] = []
    self.delay = 0.0
    self.failures = 0
    self.most_at_once = 0
    self.lock = threading.Lock()
    self.answering = 0


class _Handler(http.server.SimpleHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def do_GET(self):
    server = self.server
    wanted = self.headers.get("Range")
    with server.lock:
      server.requests.append((self.path, wanted))
      server.answering += 1
      server.most_at_once = max(server.most_at_once, server.answering)
      fails = wanted is not None and server.failures > 0
      server.failures -= fails
    time.sleep(server.delay)
    try:
      if fails:
        self.send_error(503)
      elif wanted is None:
        super().do_GET()
      else:
        self._send_range(wanted)
    finally:
      with server.lock:
        server.answering -= 1

  def _send_range(self, wanted: str):
    path = pathlib.Path(self.translate_path(self.path))
    if not path.is_file():
      self.send_error(404)
      return
    first, last = wanted.removeprefix("bytes=").split("-")
    data = path.read_bytes()[int(first) : int(last) + 1]
    self.send_response(206)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *arguments):
    del arguments


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[RangeServer]:
  """A server of a folder, in a thread, while the context lasts."""
  server = RangeServer(folder)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
