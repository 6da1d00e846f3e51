"""Runs moto's S3 server on a free port of 127.0.0.1 with an empty bucket, prints the port, and ends when standard
input ends.

usage: moto.py BUCKET REGION
"""

import logging
import sys

import boto3
from moto.server import ThreadedMotoServer

bucket, region = sys.argv[1:]
# It reports each request.
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
_, port = server.get_host_and_port()
client = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{port}",
    region_name=region,
    aws_access_key_id="tests",
    aws_secret_access_key="tests",
)
client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
print(port, flush=True)
sys.stdin.read()
