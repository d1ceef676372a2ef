"""Threads take turns with a network, and a setting of the whole process lasts while any of them needs it."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import normgate
from normgate.extractor import FeatureExtractor
from normgate.normalization import unwrap
from normgate.precision import full_precision
from normgate.threads import lock_of, process_wide
from samples import PREPROCESSING, random_records, small_network


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads are changed as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_extractors_of_one_network_give_each_thread_its_own_images(hurried: None) -> None:
    torch.manual_seed(0)
    network = normgate.Backbone("resnet18", 3, 4, 1, {"layers": [1, 1, 1, 1]}).build().train()
    extractors = [FeatureExtractor(network, PREPROCESSING), FeatureExtractor(nn.DataParallel(network), PREPROCESSING)]
    batches = [np.stack([record.payload for record in random_records(2, seed)]) for seed in range(4)]
    expected = [extractors[0](pixels) for pixels in batches]

    def asked(turn: int) -> bool:
        features, own = extractors[turn % 2](batches[turn % 4]), expected[turn % 4]
        assert features.stage_norms is not None
        assert own.stage_norms is not None
        return all(
            torch.equal(one, other)
            for one, other in (
                (features.z, own.z), (features.logits, own.logits), (features.stage_norms, own.stage_norms)
            )
        )  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(asked, range(80)))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_no_other_thread_reads_a_network_meanwhile(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    other = small_network()
    free: list[bool] = []

    def tried(module: nn.Module) -> bool:
        got = lock_of(module).acquire(blocking=False)
        if got:
            lock_of(module).release()
        return got

    with ThreadPoolExecutor(1) as pool:
        network.register_forward_hook(lambda *_: free.extend(pool.map(tried, (network, other))))
        extractor(np.zeros((1, 8, 8, 3), np.uint8))
        assert free == [False, True]
        assert pool.submit(tried, network).result()


def test_locks_are_neither_copied_nor_kept_for_ever(network: nn.Module) -> None:
    extractor = FeatureExtractor(network, PREPROCESSING)
    for again in (copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor))):
        assert lock_of(unwrap(again.model)) is not lock_of(network)
        assert torch.equal(again(np.zeros((1, 8, 8, 3), np.uint8)).z, extractor(np.zeros((1, 8, 8, 3), np.uint8)).z)
    gone = small_network()
    lock, gone = weakref.ref(lock_of(gone)), None
    gc.collect()
    assert lock() is None


@given(order=st.permutations([0, 0, 1, 1, 2, 2]))
def test_a_setting_lasts_from_the_first_to_enter_to_the_last_to_leave(order: list[int]) -> None:
    state = ["before"]

    @process_wide
    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        before, state[0] = state[0], "set"
        yield
        state[0] = before

    inside: dict[int, contextlib.AbstractContextManager[None]] = {}
    for thread in order:
        if thread in inside:
            inside.pop(thread).__exit__(None, None, None)
        else:
            inside[thread] = setting()
            inside[thread].__enter__()
        assert state == ["set" if inside else "before"]


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="these switches came with PyTorch 2.9")
def test_full_precision_is_not_left_behind_by_threads_that_overlap() -> None:
    part = torch.backends.mkldnn.matmul
    before = part.fp32_precision
    one, two = full_precision(), full_precision()
    try:
        part.fp32_precision = "bf16"
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert part.fp32_precision == "ieee"
        two.__exit__(None, None, None)
        assert part.fp32_precision == "bf16"
    finally:
        part.fp32_precision = before


def test_an_error_inside_ends_a_setting() -> None:
    ended: list[bool] = []

    @process_wide
    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        yield
        ended.append(True)

    for count in (1, 2):
        with pytest.raises(KeyError), setting(), setting():
            raise KeyError
        assert len(ended) == count
