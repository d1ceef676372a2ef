"""What threads share: networks, each of which one of them reads at a time, and settings of the whole process."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_FINDING = threading.Lock()


def lock_of(network: nn.Module) -> threading.RLock:
    """The lock of a network, the same whoever asks: hooks and modes of two threads at a time would mix.

    It is kept beside the network and not in it, since locks cannot be copied or pickled.
    """
    with _FINDING:
        return _LOCKS.setdefault(network, threading.RLock())


def process_wide(
    setting: Callable[[], contextlib.AbstractContextManager[None]],
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context that many threads may be in: the first to enter makes the setting, the last to leave undoes it.

    If each restored what it had found, a thread could end a setting that another relies on, or leave it for good.
    """
    lock = threading.Lock()
    made = contextlib.ExitStack()
    inside = 0

    @functools.wraps(setting)
    @contextlib.contextmanager
    def shared() -> Iterator[None]:
        nonlocal inside
        with lock:
            if not inside:
                made.enter_context(setting())
            inside += 1
        try:
            yield
        finally:
            with lock:
                inside -= 1
                if not inside:
                    made.close()

    return shared
