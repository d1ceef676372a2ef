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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
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
