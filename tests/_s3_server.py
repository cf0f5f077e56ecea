"""An S3 server of our own, for tests."""

from contextlib import contextmanager

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(bucket):
    """A running server with one empty bucket, named in the environment; gives a client of it."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        yield client
    server.stop()
