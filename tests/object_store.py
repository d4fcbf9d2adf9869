"""An object store of Amazon's kind on loopback, empty, for the length of a test session."""

import contextlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def serve() -> Iterator[dict[str, str]]:
  """The environment by which s3fs, in this process and in others, finds the store."""
  from moto.server import ThreadedMotoServer

  server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
  server.start()
  try:
    host, port = server.get_host_and_port()
    yield {
      "AWS_ENDPOINT_URL": f"http://{host}:{port}",
      "AWS_ACCESS_KEY_ID": "nobody",
      "AWS_SECRET_ACCESS_KEY": "nothing",
      "AWS_DEFAULT_REGION": "us-east-1",
    }
  finally:
    server.stop()


def new_bucket() -> str:
  """The address of a new bucket, once the environment is set."""
  import s3fs

  name = f"bucket-{uuid.uuid4().hex[:12]}"
  s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
  return f"s3://{name}"
