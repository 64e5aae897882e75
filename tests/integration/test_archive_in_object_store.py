"""Archives at S3-style URLs, on a real HTTP server that speaks S3."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer
from support.orders import DAY, START_MS, applied, asked, events, store

from streamsvc.errors import ConfigurationError

SERVICE = "will_buy"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with the orders as a directory of five files."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "someone"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="lake")
    frame = events(np.random.default_rng(11))
    for i, rows in enumerate(np.array_split(np.arange(len(frame)), 5)):
        file = io.BytesIO()
        frame.iloc[rows].to_parquet(file)
        client.put_object(Bucket="lake", Key=f"orders/{i}.parquet", Body=file.getvalue())
    yield "lake"
    everything = client.list_objects_v2(Bucket="lake")["Contents"]
    for found in everything:
        client.delete_object(Bucket="lake", Key=found["Key"])
    client.delete_bucket(Bucket="lake")


def answers(repo: Path) -> pd.DataFrame:
    archive = events(np.random.default_rng(11))
    feasts = store(repo)
    service = feasts.get_feature_service(SERVICE)
    return (
        feasts.get_historical_features(asked(np.random.default_rng(5), archive), service)
        .to_df()
        .sort_index(axis=1)
    )


def moved(options: str) -> tuple[str, str, str]:
    return ("definitions.py", 'path="data/orders.parquet"', options)


@pytest.mark.parametrize("named", [True, False])
def test_answers_are_those_of_local_files(
    tmp_path: Path, bucket: str, endpoint: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f'path="s3://{bucket}/orders/"'
    if named:
        options += f', s3_endpoint_override="{endpoint}"'
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    repo = applied(tmp_path / "remote", moved(options))
    local = answers(applied(tmp_path / "local"))
    pd.testing.assert_frame_equal(answers(repo), local)

    store(repo).materialize(
        datetime.fromtimestamp(START_MS / 1e3, UTC),
        datetime.fromtimestamp((START_MS + DAY) / 1e3, UTC),
        feature_views=["buyer_spend"],
    )
    found = store(repo).get_online_features(["buyer_spend:usual_price"], {"buyer_id": ["ann"]})
    assert found.to_dict()["usual_price"][0] > 0


def test_what_is_wrong_is_said(tmp_path: Path, bucket: str, endpoint: str) -> None:
    options = f'path="s3://{bucket}/orders/", s3_endpoint_override="{endpoint}"'
    repo = applied(tmp_path / "repo", moved(options))
    client = boto3.client("s3", endpoint_url=endpoint)
    for i in range(5):
        client.delete_object(Bucket=bucket, Key=f"orders/{i}.parquet")
    wrong: Any = pytest.raises(ConfigurationError, match="archive of KafkaSource 'orders' cannot")
    with wrong:
        answers(repo)
    client.put_object(Bucket=bucket, Key="orders/0.parquet", Body=b"no parquet")
    with wrong:
        answers(repo)
