"""The application: the gate's own verdicts, every limit and status, the token, reload, metrics, and no 500."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import io
import json
import math
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from normgate import Gate
from normgate.data.loading import PixelBatch
from normgate.errors import NormgateError
from normgate.export import export
from normgate.files import OutputError, sha256
from normgate.judging import JudgingError, choose_judge
from normgate.neighbours import NeighbourError
from normgate.serving import Options, ServingError, create_application, read_token, service
from normgate.serving.options import BODIES
from normgate.serving.served import Served
from normgate.verdicts import Verdicts

Serve = Callable[..., TestClient]
PNG = {"Content-Type": "image/png"}
TOKEN = "a-token-that-is-long-enough"


def form(images: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{i}.png", image)) for i, image in enumerate(images)]


def error(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


class Shut:
    """A judge that waits until it is opened."""

    def __init__(self, client: TestClient) -> None:
        service = client.app.state.service
        self.preprocessing, self._judge = service.served.judge.preprocessing, service.served.judge
        self.entered, self.open = threading.Event(), threading.Event()
        service.served = dataclasses.replace(service.served, judge=self)

    def judge_batch(self, batch: PixelBatch) -> Verdicts:
        self.entered.set()
        assert self.open.wait(30)
        return self._judge.judge_batch(batch)


def test_an_exported_gate_is_served(serve: Serve, gate_folder: Path, files: list[bytes], tmp_path: Path) -> None:
    export(Gate.load(gate_folder, device="cpu"), tmp_path / "g.onnx")
    of_file, of_folder = (serve(path, runtime="onnx", shift_delta=0.01) for path in (tmp_path / "g.onnx", gate_folder))
    told, expected = (client.post("/verdicts", files=form(files)).json() for client in (of_file, of_folder))
    assert told["gate"] == sha256(tmp_path / "g.onnx")
    assert told["verdicts"] == expected["verdicts"]
    about, wanted = (client.get("/gate").json() for client in (of_file, of_folder))
    changing = {"gate": None, "shift": None}  # the alarm depends on the order in which the images are judged
    assert {**about, **changing} == {**wanted, **changing}
    assert about["shift"]["seen"] == len(files)
    with pytest.raises(ServingError, match="keeps no features of training images; serve the gate's folder"):
        serve(tmp_path / "g.onnx", runtime="onnx", neighbours=tmp_path)
    with pytest.raises(JudgingError, match="PyTorch takes the gate's folder alone"):
        serve(tmp_path / "g.onnx", runtime="torch")


def test_a_gate_that_accepts_nothing_is_served(gate_folder: Path, files: list[bytes], tmp_path: Path) -> None:
    gate = Gate.load(gate_folder, device="cpu")
    infinite = dataclasses.replace(gate.calibration, scores=np.full(gate.calibration.n, np.inf))
    dataclasses.replace(gate, calibration=infinite).save(tmp_path / "gate")
    with TestClient(create_application(tmp_path / "gate", Options(runtime="torch"))) as client:
        told = client.post("/verdicts", files=form(files)).json()["verdicts"]
        assert {verdict["accepted"] for verdict in told} == {False}
        assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_verdicts_are_those_of_the_runtime(serve: Serve, gate_folder: Path, files: list[bytes], runtime: Any) -> None:
    client = serve(runtime=runtime)
    gate = Gate.load(gate_folder, device="cpu")
    judge = choose_judge(gate, runtime).judge
    expected = judge(files)
    about = client.get("/gate").json()
    assert about["runtime"] == runtime
    assert about["caveats"] == gate.caveats != []
    answered = client.post("/verdicts", files=form(files)).json()["verdicts"]
    alone = [client.post("/verdicts", content=image, headers=PNG).json()["verdicts"][0] for image in files[:5]]
    for told, verdict in zip([*answered, *alone], [*expected, *list(expected)[:5]], strict=True):
        assert (told["label"], told["accepted"], told["error"]) == (verdict.label, verdict.accepted, None)
        assert told["score"] == pytest.approx(verdict.score, rel=1e-5)
        assert told["probability"] == pytest.approx(verdict.probability, rel=1e-5)
        assert told["p_value"] == verdict.p_value
    assert [told["id"] for told in answered] == [f"{i}.png" for i in range(len(files))]


def test_each_image_of_a_form_has_its_own_error(serve: Serve, files: list[bytes]) -> None:
    client = serve()
    response = client.post("/verdicts", files=form([files[0], b"no image", b"", files[1][:40]]))
    assert response.status_code == 200
    first, *broken = response.json()["verdicts"]
    assert first["error"] is None
    for told, said in zip(broken, ("not an image", "empty", "damaged"), strict=True):
        assert said in told["error"]
        nothing = ("label", "probability", "score", "p_value", "accepted")
        assert [told[name] for name in nothing] == [None] * 5


def test_limits_and_statuses(serve: Serve, files: list[bytes]) -> None:
    client = serve(max_bytes=5000, max_pixels=64, max_images=3)
    ask = client.post
    assert ask("/verdicts", content=files[0], headers=PNG).status_code == 200
    assert ask("/verdicts", content=files[0]).status_code == 200  # of no kind
    assert "5,000 bytes" in error(ask("/verdicts", content=bytes(5001), headers=PNG), 413)
    assert "5,000 bytes" in error(ask("/verdicts", content=iter([bytes(4000)] * 2), headers=PNG), 413)
    assert "5,000 bytes" in error(ask("/verdicts", files=form([bytes(3000)] * 2)), 413)
    large = np.zeros((9, 8, 3), np.uint8)
    assert "limit of 64" in error(ask("/verdicts", content=png(large), headers=PNG), 422)
    assert "Too many files" in error(ask("/verdicts", files=form(files[:4])), 422)
    assert "not an image" in error(ask("/verdicts", content=b"no image", headers=PNG), 422)
    assert "empty" in error(ask("/verdicts", content=b"", headers=PNG), 422)
    assert "image/" in error(ask("/verdicts", content=b"{}", headers={"Content-Type": "application/json"}), 415)
    assert "file name" in error(ask("/verdicts", files={"images": (None, b"text")}), 422)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert "no files" in error(ask("/verdicts", content=b"--x--\r\n", headers=kind), 422)
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    whole = 2 * (head + files[0] + b"\r\n") + b"--x--\r\n"
    for cut in (2, 4, 6, 40, len(whole) // 2, len(whole) - 20):
        answer = ask("/verdicts", content=whole[:-cut], headers=kind)
        if cut == 2:  # the last line without its end
            assert len(answer.json()["verdicts"]) == 2
        else:
            assert "before its last boundary" in error(answer, 422)
    for wrong in ("-1", "9", "many", "", "²", "1" * 5000):
        assert "neighbours" in error(ask("/verdicts", params={"neighbours": wrong}, content=files[0], headers=PNG), 422)
    assert error(client.get("/verdicts"), 405)
    assert error(client.get("/nothing"), 404)
    assert error(client.get("/gate/", follow_redirects=False), 404)
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {"status": "ready"}


def png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize("charset", ["undefined", "idna", "unicode_escape", "utf-7", "rot13", "punycode"])
def test_names_in_odd_charsets_are_no_defect(serve: Serve, files: list[bytes], charset: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="\\ud800\xff\xfe"\r\n\r\n'
    kind = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = serve().post("/verdicts", content=head + files[0] + b"\r\n--x--\r\n", headers=kind)
    assert response.status_code in (200, 422)
    json.loads(response.content)


def test_a_full_queue_refuses_before_it_reads(serve: Serve, files: list[bytes]) -> None:
    client = serve(max_images=2, queue=2)
    shut = Shut(client)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.post("/verdicts", files=form(files[:2]))))
    asking.start()
    assert shut.entered.wait(30)
    assert "normgate_queue_images 2.0" in client.get("/metrics").text

    def unread() -> Any:
        raise AssertionError("the body was read")
        yield b""

    status, headers, body = asked(client.app, unread)
    assert (status, b"full" in body) == (429, True)
    assert headers[b"retry-after"] == b"1"
    assert error(client.get("/ready"), 429)
    shut.open.set()
    asking.join(30)
    assert answers[0].status_code == 200
    assert client.get("/ready").status_code == 200


def asked(app: Any, body: Callable[[], Any], kind: bytes = b"image/png") -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of a request whose own body comes piece by piece, and may never end."""

    async def ask() -> tuple[int, dict[bytes, bytes], bytes]:
        messages: list[Any] = []
        pieces = body()

        async def receive() -> Any:
            piece = next(pieces, None)
            if piece is None:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": piece, "more_body": True}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {"type": "http", "method": "POST", "path": "/verdicts", "headers": [(b"content-type", kind)]}
        await app({**scope, "query_string": b"", "http_version": "1.1"}, receive, send)
        start, *rest = messages
        return start["status"], dict(start["headers"]), b"".join(message.get("body", b"") for message in rest)

    return asyncio.run(ask())


def test_time_outs(serve: Serve, files: list[bytes]) -> None:
    client = serve(timeout=0.2)
    status, _, body = asked(client.app, lambda: iter([files[0][:20]]))
    assert (status, b"did not arrive" in body) == (408, True)
    shut = Shut(client)
    response = client.post("/verdicts", content=files[0], headers=PNG)
    assert "no verdict within 0.2 seconds" in error(response, 503)
    assert response.headers["Retry-After"] == "1"
    shut.open.set()


def test_bodies_share_one_limit_of_memory(serve: Serve) -> None:
    client = serve(max_bytes=1000)
    memory = client.app.state.memory
    with memory.body() as other:
        other.take(1000 * BODIES - 500)
        status, _, body = asked(client.app, lambda: iter([bytes(400)] * 2))
        assert (status, b"as many bytes" in body) == (429, True)
        assert memory.held == 1000 * BODIES - 500
    assert memory.held == 0
    with memory.body() as one:
        one.take(10)
        one.hold()  # as whoever decodes one of its images does
    assert memory.held == 10
    one.release()
    assert memory.held == 0


def test_a_client_that_goes_away_leaves_nothing(serve: Serve) -> None:
    client = serve()

    async def go() -> list[Any]:
        messages: list[Any] = []
        parts = iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(parts)

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {"type": "http", "method": "POST", "path": "/verdicts", "headers": [], "query_string": b""}
        await client.app(scope, receive, send)
        return messages

    assert asyncio.run(go())[0]["status"] == 400
    assert client.app.state.memory.held == 0


def test_the_token(serve: Serve, files: list[bytes]) -> None:
    client = serve(token=TOKEN)
    right = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/verdicts", "/reload"):
        assert "token" in error(client.post(path, content=files[0]), 401)
    for path in ("/gate", "/metrics", "/nothing"):
        response = client.get(path)
        assert "token" in error(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer \xff"):
        given = {"Authorization": wrong.encode("latin-1")}
        assert client.get("/gate", headers=given).status_code == 401
    assert client.get("/gate", headers=right).status_code == 200
    assert client.get("/gate", headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200
    assert client.post("/verdicts", content=files[0], headers={**right, **PNG}).status_code == 200
    for path in ("/", "/health", "/ready", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert TOKEN not in client.get("/openapi.json").text
    assert TOKEN not in repr(client.app.state.service.options)


def test_tokens_come_from_files_and_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("NORMGATE_TOKEN", "from-the-environment")
    assert read_token(tmp_path / "token") == TOKEN
    assert read_token(None) == "from-the-environment"
    monkeypatch.delenv("NORMGATE_TOKEN")
    assert read_token(None) is None
    monkeypatch.setenv("NORMGATE_TOKEN", "")
    with pytest.raises(ServingError, match="NORMGATE_TOKEN is set and empty"):
        read_token(None)
    (tmp_path / "blank").write_text("\n")
    with pytest.raises(ServingError, match="blank is empty"):
        read_token(tmp_path / "blank")
    with pytest.raises(ServingError, match="cannot be read"):
        read_token(tmp_path / "none")
    for bad in ("", "short", "with spaces in between", "täglich-ein-neues-wort"):
        with pytest.raises(ServingError, match="at least 16"):
            Options(token=bad)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_bytes": 0}, "max_bytes"),
        ({"queue": 5}, "--queue"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"queue": 600.5}, "queue"),
        ({"max_images": True}, "max_images"),
        ({"shift_delta": math.nan}, "shift_delta"),
        ({"shift_state": Path("state.json")}, "--shift-alarm"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ServingError, match=said):
        Options(**options)


def test_reload(serve: Serve, gate_folder: Path, other_folder: Path, files: list[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    shutil.copytree(gate_folder, folder)
    client = serve(folder, token=TOKEN)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    shut = Shut(client)
    first = client.get("/gate").json()["gate"]
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.post("/verdicts", content=files[0])))
    asking.start()
    assert shut.entered.wait(30)
    shutil.rmtree(folder)
    shutil.copytree(other_folder, folder)
    second = client.post("/reload").json()["gate"]
    assert second != first
    assert client.get("/gate").json()["score"] == "knn"
    shut.open.set()  # what came before is still judged by the gate from before
    asking.join(30)
    assert answers[0].json()["gate"] == first
    assert client.post("/verdicts", content=files[0]).json()["gate"] == second
    (folder / "network.safetensors").write_bytes(b"damaged")
    assert "network.safetensors has changed" in error(client.post("/reload"), 409)
    assert client.post("/verdicts", content=files[0]).json()["gate"] == second
    text = client.get("/metrics").text
    assert 'normgate_reloads_total{outcome="done"} 1.0' in text
    assert 'normgate_reloads_total{outcome="failed"} 1.0' in text
    assert f'normgate_score_count{{gate="{second[:12]}"}} 2.0' in text
    assert first[:12] not in text


def test_a_reload_that_fails_in_any_way_is_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(token=TOKEN)
    client.headers["Authorization"] = f"Bearer {TOKEN}"

    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(service.Served, "load", fails)
    assert "log" in error(client.post("/reload"), 500)
    assert 'normgate_reloads_total{outcome="failed"} 1.0' in client.get("/metrics").text


def test_the_last_images_of_an_older_gate_leave_the_gauges_alone(serve: Serve, files: list[bytes]) -> None:
    client = serve(shift_delta=0.01)
    counts, current = client.app.state.service.metrics, client.app.state.service.served
    older = dataclasses.replace(current, digest="older", alarm=copy.deepcopy(current.alarm))
    older.alarm.update(np.full(500, -1e9))
    assert older.alarm.raised
    counts.judged(older, [], 0.1)
    assert "normgate_shift_alarm 0.0" in client.get("/metrics").text
    counts.reloaded(older)
    assert "normgate_shift_alarm 1.0" in client.get("/metrics").text


def test_reload_needs_a_token(serve: Serve) -> None:
    assert "SIGHUP" in error(serve().post("/reload"), 403)


def test_a_hostile_folder_is_refused_and_nothing_of_it_runs(gate_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    shutil.copytree(gate_folder, folder)
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(NormgateError, match="does not belong"):
        create_application(folder)
    (folder / "__init__.py").unlink()
    told = json.loads((folder / "gate.json").read_text())
    del told["digest"]
    for name in ("os.system", "__import__('os').system('true')", "hf-hub:stranger/net"):
        told["network"]["backbone"]["name"] = name
        (folder / "gate.json").write_text(json.dumps(told))
        with pytest.raises(NormgateError):
            create_application(folder)
    assert not (tmp_path / "ran").exists()


def test_metrics(serve: Serve, files: list[bytes]) -> None:
    client = serve(shift_delta=0.01)
    told = client.post("/verdicts", files=form([*files, b"no image"])).json()["verdicts"]
    client.post("/verdicts", content=b"no image", headers=PNG)
    for i in range(50):
        client.get(f"/{i}")
    text = client.get("/metrics").text
    accepted = sum(verdict["accepted"] is True for verdict in told)
    assert f'normgate_verdicts_total{{verdict="accepted"}} {float(accepted)}' in text
    assert f'normgate_verdicts_total{{verdict="rejected"}} {float(len(files) - accepted)}' in text
    assert 'normgate_verdicts_total{verdict="unreadable"} 2.0' in text
    assert 'normgate_requests_total{path="/verdicts",status="200"} 1.0' in text
    assert 'normgate_requests_total{path="/verdicts",status="422"} 1.0' in text
    assert 'normgate_requests_total{path="other",status="404"} 50.0' in text
    assert "normgate_queue_images 0.0" in text
    scores = np.array([verdict["score"] for verdict in told[:-1]])
    buckets = re.findall(r'normgate_score_bucket\{gate="\w+",le="([^"]+)"\} (\S+)', text)
    assert len(buckets) > 10
    for limit, count in buckets:
        assert float(count) == (scores <= float(limit.replace("+Inf", "inf"))).sum()
    shift = client.get("/gate").json()["shift"]
    assert (shift["seen"], shift["delta"]) == (len(files), 0.01)
    assert float(re.search(r"^normgate_shift_log_martingale (\S+)", text, re.M)[1]) == shift["log_martingale"]


def test_the_alarm_is_raised_by_a_shift_and_goes_on_after_a_stop(
    serve: Serve,
    gate_folder: Path,
    other_folder: Path,
    files: list[bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = tmp_path / "state.json"
    flat = [png(np.full((8, 8, 3), value, np.uint8)) for value in range(64)]
    options = {"runtime": "torch", "shift_delta": 0.01, "shift_state": state}
    application = create_application(gate_folder, Options(**options))
    with TestClient(application) as client:
        client.post("/verdicts", files=form(files))
        assert client.get("/gate").json()["shift"]["raised"] is None
        client.post("/verdicts", files=form(flat))
        told = client.get("/gate").json()["shift"]
        assert told["raised"] > len(files)
        assert "normgate_shift_alarm 1.0" in client.get("/metrics").text
    assert serve(shift_delta=0.01, shift_state=state).get("/gate").json()["shift"] == told
    text = serve(shift_delta=0.01, shift_state=state).get("/metrics").text
    assert "normgate_shift_alarm 1.0" in text
    assert f"normgate_shift_log_martingale {told['log_martingale']}" in text
    with pytest.raises(ServingError, match="another DELTA"):
        create_application(gate_folder, Options(**options | {"shift_delta": 0.02}))
    anew = serve(other_folder, shift_delta=0.01, shift_state=state)
    assert anew.get("/gate").json()["shift"]["seen"] == 0
    assert "normgate_shift_alarm 0.0" in anew.get("/metrics").text
    assert "another gate's alarm" in caplog.text
    state.write_text("{}")
    with pytest.raises(ServingError, match="no state"):
        create_application(gate_folder, Options(**options))
    with pytest.raises(ServingError, match="--shift-state"):
        create_application(gate_folder, Options(**options | {"shift_state": tmp_path / "none" / "state.json"}))


def test_the_state_of_the_alarm_is_kept_on_the_way(
    serve: Serve, files: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "KEPT_EVERY", 4)
    state = tmp_path / "state.json"

    def kept() -> Any:
        return json.loads(state.read_text())["alarm"] if state.exists() else None

    client = serve(shift_delta=1e-3, shift_state=state)
    found = []
    for image in files[:9]:
        client.post("/verdicts", content=image, headers=PNG)
        found.append(kept() and kept()["seen"])
    assert found == [None] * 3 + [4] * 4 + [8] * 2
    monkeypatch.setattr(service, "KEPT_EVERY", 10**9)
    client.post("/verdicts", files=form([png(np.full((8, 8, 3), value, np.uint8)) for value in range(64)]))
    assert kept()["raised"] == client.get("/gate").json()["shift"]["raised"] > 9


def test_a_state_that_cannot_be_written_fails_the_end_and_no_request(
    gate_folder: Path,
    files: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(service, "KEPT_EVERY", 1)
    folder = tmp_path / "states"
    folder.mkdir()
    options = Options(runtime="torch", shift_delta=0.01, shift_state=folder / "state.json")
    with (
        pytest.raises(OutputError),
        TestClient(create_application(gate_folder, options), raise_server_exceptions=False) as client,
    ):
        folder.rmdir()
        folder.write_text("in the way")
        assert client.post("/verdicts", content=files[0], headers=PNG).status_code == 200
        assert "is not kept" in caplog.text
    assert "is lost" in caplog.text


def test_threads_that_ask_at_once_get_the_neighbours_of_their_own_images(photo_gate: Path, class_folders: Path) -> None:
    neighbours = Served.load(photo_gate, Options(neighbours=str(class_folders))).neighbours
    assert neighbours is not None
    size = Gate.load(photo_gate, device="cpu").preprocessing.size
    asked = np.random.default_rng(0).integers(0, 256, (40, 1, *size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pixels: neighbours.nearest(pixels, 3), asked)) == [
            neighbours.nearest(pixels, 3) for pixels in asked
        ]


def test_neighbours_are_shown_where_the_images_are_named(serve: Serve, photo_gate: Path, class_folders: Path) -> None:
    client = serve(photo_gate, neighbours=str(class_folders))
    image = class_folders / "cat" / "03.png"
    told = client.post("/verdicts?neighbours=3", content=image.read_bytes(), headers=PNG).json()["verdicts"][0]
    gate = Gate.load(photo_gate, device="cpu")
    kept = gate.kept["train"]
    pixels = gate.preprocessing.resized(Image.open(image))
    cosines = dict(zip(kept.ids, (gate.extractor(pixels[None]).u @ kept.u.T)[0].tolist(), strict=True))
    assert cosines["cat/03.png"] == pytest.approx(1, abs=1e-5)
    shown = [near["cosine"] for near in told["neighbours"]]
    assert shown == pytest.approx(sorted(cosines.values(), reverse=True)[:3], abs=1e-5)
    for near in told["neighbours"]:
        assert near["cosine"] == pytest.approx(cosines[near["id"]], abs=1e-5)
        assert near["label"] == near["id"].partition("/")[0]
    assert all(near["thumbnail"].startswith("data:image/webp;base64,") for near in told["neighbours"])
    both = client.post("/verdicts?neighbours=2", files=form([b"no image", image.read_bytes()])).json()["verdicts"]
    assert [len(verdict["neighbours"]) for verdict in both] == [0, 2]
    assert "neighbours" not in client.post("/verdicts", content=image.read_bytes(), headers=PNG).json()["verdicts"][0]
    silent = serve(photo_gate).post("/verdicts?neighbours=3", content=image.read_bytes(), headers=PNG)
    assert silent.json()["verdicts"][0]["neighbours"] == []
    (class_folders / "cat" / "03.png").write_bytes(png(np.zeros((12, 12, 3), np.uint8)))
    with pytest.raises(NeighbourError, match=r"1 of 60 .* such as cat/03.png"):
        create_application(photo_gate, Options(runtime="torch", neighbours=str(class_folders)))


def test_nothing_grows_with_the_number_of_requests(serve: Serve, files: list[bytes]) -> None:
    client = serve(shift_delta=0.01)
    service = client.app.state.service

    def sizes() -> tuple[int, ...]:
        alarm = service.served.alarm
        series = client.get("/metrics").text.count("\n")
        return alarm.counts.nbytes, alarm.log_bets.nbytes, series, threading.active_count()

    def some(count: int) -> None:
        for i in range(count):
            client.post("/verdicts", content=files[i % len(files)], headers=PNG)
            client.post("/verdicts", content=files[i % len(files)][: i % 60], headers=PNG)
            client.get(f"/page-{i}")

    some(20)
    client.get("/metrics")
    before = sizes()
    some(300)
    assert sizes() == before
    assert (service.batcher.held, client.app.state.memory.held) == (0, 0)
    assert not service.batcher._ready


@pytest.fixture(scope="module")
def fuzzed(gate_folder: Path) -> Any:
    application = create_application(gate_folder, Options(runtime="torch", max_bytes=20_000, max_images=4))
    with TestClient(application, raise_server_exceptions=False) as client:
        yield client


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_images_and_forms_are_told_apart_from_defects(fuzzed: Any, files: list[bytes], data: Any) -> None:
    whole = bytearray(data.draw(st.sampled_from(files)))
    if data.draw(st.booleans()):
        head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\nContent-Type: image/png\r\n\r\n'
        whole = bytearray(head + bytes(whole) + b"\r\n--x--\r\n")
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)))):
        whole[position] = value
    content = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    kind = data.draw(
        st.sampled_from(["image/png", "multipart/form-data; boundary=x", "multipart/form-data", "", "a/b"])
    )
    response = fuzzed.post("/verdicts", content=content, headers={"Content-Type": kind})
    assert response.status_code in (200, 413, 415, 422)
    assert ("verdicts" in response.json()) == (response.status_code == 200)
