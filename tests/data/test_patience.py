from __future__ import annotations

import pytest

from normgate.data import patience
from normgate.data.patience import PAUSES, patiently, reason, shown


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("told https://user:secret@host/x?signature=secret")
        self.status = status


class Flaky:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def pauses(monkeypatch):
    seen: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", seen.append)
    return seen


@pytest.mark.parametrize(
    "error", [OSError("reset"), TimeoutError(), StatusError(503), StatusError(429), RuntimeError()]
)
def test_what_may_pass_is_tried_again(error, pauses):
    action = Flaky(error, error)
    assert patiently(action) == "done"
    assert pauses == list(PAUSES)
    with pytest.raises(type(error)):
        patiently(Flaky(*[error] * 3))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), PermissionError(), StatusError(404), StatusError(403), ValueError()]
)
def test_what_lasts_is_not(error, pauses):
    action = Flaky(error)
    with pytest.raises(type(error)):
        patiently(action)
    assert action.calls == 1
    assert pauses == []


def not_found(cause: Exception) -> FileNotFoundError:
    error = FileNotFoundError("http://h/x")
    error.__cause__ = cause
    return error


def test_what_is_no_more_than_called_a_file_that_is_not_there(pauses):
    """Of every failed request over HTTP fsspec says that there is no such file."""
    action = Flaky(not_found(OSError("Connect call failed")))
    assert patiently(action) == "done"
    assert len(pauses) == 1
    with pytest.raises(FileNotFoundError):
        patiently(Flaky(not_found(StatusError(403))))
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (not_found(OSError("Connect call failed")), "Connect call failed"),
        (not_found(StatusError(503)), "the server answered 503"),
        (not_found(StatusError(404)), "there is no such file"),
        (not_found(FileNotFoundError()), "there is no such file"),
        (not_found(KeyError("/h/x")), "there is no such file"),
        (not_found(RuntimeError("NoSuchKey")), "there is no such file"),
        (FileNotFoundError("http://h/x?signature=secret"), "there is no such file"),
        (PermissionError("secret"), "access is denied"),
        (TimeoutError(), "there was no answer in time"),
        (StatusError(503), "the server answered 503"),
        (OSError("cannot get ftp://user:secret@h/x"), "cannot get ftp://h/x"),
        (OSError("cannot get 'http://h/x?a=1&signature=secret' now"), "cannot get 'http://h/x?…' now"),
        (OSError("two\nlines\x1b[0m"), "two\N{REPLACEMENT CHARACTER}lines\N{REPLACEMENT CHARACTER}[0m"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_reasons(error, expected):
    assert reason(error) == expected


def test_what_may_be_shown():
    assert shown("s3://b/what?.jpg") == "s3://b/what?.jpg"
    assert shown("s3://b/a@b.jpg") == "s3://b/a@b.jpg"
    assert shown("http://u:p@h/x?token=1") == "http://h/x?…"
