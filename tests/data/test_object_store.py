"""An object store as s3fs finds it: the server is moto's, and what lies in it was put there by boto3."""

from __future__ import annotations

import io
import os
import pickle
import urllib.request
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from normgate.data.addresses import find
from normgate.data.decoding import ImageError, decode
from normgate.data.folders import PathList
from normgate.data.sources import SourceError, load, open_source

s3fs = pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

ODD = "na me #1?.png", "ü/x+y%20.png", "[a]{b,c}*.png"

Put = Callable[[dict[str, bytes]], str]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of a server."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Put objects into an empty bucket, and get its address."""
    for name in list(os.environ):  # keys and places of whoever runs this
        if name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
    settings = {"ENDPOINT_URL": store, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
    settings |= dict.fromkeys(("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"), os.devnull)
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr("normgate.data.patience.time.sleep", lambda _: None)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")

    def put(files: dict[str, bytes]) -> str:
        for name, content in files.items():
            client.put_object(Bucket="photos", Key=name, Body=content)
        return "s3://photos"

    yield put
    urllib.request.urlopen(f"{store}/moto-api/reset", data=b"").close()
    s3fs.S3FileSystem.clear_instance_cache()


def ids(place: str, labelled: bool = False) -> list[str]:
    return [record.id for record in open_source(place, labelled=labelled)]


def test_a_folder_of_objects(bucket, encode, noise):
    images = {name: encode(noise(4, 5, 3, seed=seed)) for seed, name in enumerate(ODD)}
    place = bucket({f"day/{name}": image for name, image in images.items()} | {"day/": b"", "day/notes.txt": b"x"})
    source = open_source(f"{place}/day", labelled=False)
    found = {record.id: record.payload.fetch() for record in source}
    assert found == images
    assert list(found) == sorted(images)
    assert source.skipped == 1
    for name in ODD:
        one = find(f"{place}/day/{name}")
        assert decode(pickle.loads(pickle.dumps(one))).size == (5, 4)
        assert ids(f"{place}/day/{name}") == [name.rpartition("/")[2]]
    assert ids(f"{place}/day/*.png") == sorted(name for name in ODD if "/" not in name)


def test_a_listing_of_many_pages_is_whole(bucket, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "5")
    names = [f"{i:02d}.png" for i in range(17)]
    assert ids(bucket(dict.fromkeys(names, b""))) == names


def test_labels_tables_and_tars_of_a_store(bucket, encode, noise, tar):
    image = encode(noise(4, 5, 3))
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [image] * 3, "split": ["a", "b", "a"]}), table)
    place = bucket(
        {
            "classes/cat/1.png": image,
            "classes/dog/1.png": image,
            "pack.parquet": table.getvalue(),
            "shard.tar": tar("shard.tar", {"x.png": image, "y.png": image}).read_bytes(),
        }
    )
    assert [record.label for record in open_source(f"{place}/classes", labelled=True)] == ["cat", "dog"]
    assert ids(f"{place}/pack.parquet?split=a") == ["pack.parquet#0", "pack.parquet#2"]
    for name in ("classes", "pack.parquet", "shard.tar"):
        records = load(open_source(f"{place}/{name}", labelled=False))
        assert {decode(record.payload).size for record in records} == {(5, 4)}


def test_what_is_not_in_a_store(bucket, encode, noise):
    place = bucket({"a/x.png": encode(noise(4, 5, 3))})
    for gone in (f"{place}/b", f"{place}/a/y.png", "s3://another/a"):
        with pytest.raises(SourceError, match=f"^{gone} does not exist$"):
            ids(gone)
    with pytest.raises(ImageError, match="it cannot be fetched: there is no such file"):
        find(f"{place}/a/y.png").fetch()
    assert [record.id for record in PathList([f"{place}/a/x.png"])] == [f"{place}/a/x.png"]


def test_a_store_that_knows_nobody(bucket, monkeypatch):
    place = bucket({})
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match=r"s3://photos/a cannot be read: Unable to locate credentials"):
        ids(f"{place}/a")
