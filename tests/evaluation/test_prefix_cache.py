"""A prefix-cached trial = the same trial from scratch, on the embedded model; tiers, limits, faults."""

from __future__ import annotations

import errno
import gc
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vtr_ray import embedded, strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation import tiers as places
from vtr_ray.evaluation.evaluator import Evaluator
from vtr_ray.evaluation.outcome import effectiveness
from vtr_ray.evaluation.prefix_cache import PrefixCache, parse_size
from vtr_ray.evaluation.samples import SampleSet
from vtr_ray.evaluation.suites import load_tasks
from vtr_ray.models import family_of, load_model
from vtr_ray.reduction import reduce_vision_tokens
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch

BATCH = 6


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_model(embedded.checkpoint("embedded"), device="cpu")


@pytest.fixture(scope="module")
def samples() -> SampleSet:
    """Four of each task: two thirds decided in one pass, a third that generates."""
    whole = load_tasks(embedded.search_tasks(), embedded.TASKS_FOLDER).samples
    tasks: dict[str, list[Any]] = {}
    for sample in whole:
        tasks.setdefault(sample.source, []).append(sample)
    return SampleSet(tuple(sample for found in tasks.values() for sample in found[7:11]))


def trials() -> list[Schedule]:
    """Both ends, nothing, and points between at every searched layer; then what is not a search's."""
    found, fixed = [], [1.0, 1.0]
    for layer, chosen in ((3, 0.4), (6, 0.25), (9, 0.25), (12, 0.1)):
        for rate in (0.0, fixed[-1], chosen, 0.6 * chosen):
            found.append(Schedule.from_rates([*fixed, *[rate] * (13 - layer)]))
        fixed += [chosen] * 3
    return [
        *found,
        strategies.fastv(12),
        strategies.p_sigmoid(12, budget=0.2, k=0.5),
        strategies.vtw(12),
        found[2],
    ]


@pytest.fixture(scope="module")
def expected(loaded: Any, samples: SampleSet) -> list[Any]:
    evaluator = Evaluator(*loaded, samples, BATCH, cache=0)
    found = [evaluator.evaluate(schedule) for schedule in trials()]
    assert evaluator.prefixes.found == 0 and evaluator.prefixes.tiers.bytes == 0
    assert len({effectiveness(outcomes) for outcomes in found}) > 4
    return found


@contextmanager
def counted(evaluator: Evaluator) -> Iterator[list[int]]:
    """Layers (from 1) that ran on more than the tokens of a decode step."""
    ran: list[int] = []
    layers = family_of(evaluator.model).layers_of(evaluator.model)
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, number=number: ran.append(number) if args[0].shape[1] > 9 else None
        )
        for number, layer in enumerate(layers, 1)
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def test_outcomes_are_those_from_scratch(loaded: Any, samples: SampleSet, expected: list[Any]) -> None:
    evaluator = Evaluator(*loaded, samples, BATCH)
    ran = []
    for schedule, outcomes in zip(trials(), expected, strict=True):
        with counted(evaluator) as layers:
            assert evaluator.evaluate(schedule) == outcomes
        ran.append(min(layers, default=12))  # the last one runs on the answer's rows alone
    assert ran[1:4] == [3] * 3 and ran[5:8] == [6] * 3 and ran[9:12] == [9] * 3 and ran[13:16] == [12] * 3
    assert any(not sample.exact for sample in samples)
    decided = Evaluator(*loaded, samples, BATCH, teacher_forcing=False)
    scores = [{o.sample_id: o.score for o in decided.evaluate(schedule)} for schedule in trials()]
    assert scores == [{o.sample_id: o.score for o in outcomes} for outcomes in expected]


@pytest.mark.slow
def test_batches_that_change_actors(loaded: Any, samples: SampleSet, expected: list[Any]) -> None:
    """Dealt anew in every trial, one actor new in mid-search: an actor that lacks a state runs the layers."""
    actors = [Evaluator(*loaded, samples, BATCH) for _ in range(2)]
    number = actors[0].num_batches
    for trial, (schedule, outcomes) in enumerate(zip(trials(), expected, strict=True)):
        if trial == 6:
            actors[1] = Evaluator(*loaded, samples, BATCH)
        parts = [actors[(trial // 2 + batch) % 2].evaluate(schedule, [batch]) for batch in range(number)]
        assert [outcome for part in parts for outcome in part] == outcomes
    assert all(actor.prefixes.found and actor.prefixes.missed > number for actor in actors)


@pytest.mark.slow
def test_a_search_is_the_same(loaded: Any, samples: SampleSet) -> None:
    found = []
    for cache in (2**30, 0):
        evaluator = Evaluator(*loaded, samples, BATCH, cache=cache)
        search = GSearch(12, 144, stride=4, initial=3, iterations=1)
        while not search.finished:
            trial = search.ask()
            search.tell(trial, effectiveness(evaluator.evaluate(trial.schedule)))
        found.append((search.results, search.best))
    assert found[0] == found[1]


def run(evaluator: Evaluator, expected: list[Any], trials_: int = 8) -> None:
    for schedule, outcomes in zip(trials()[:trials_], expected, strict=False):
        assert evaluator.evaluate(schedule) == outcomes


@pytest.mark.slow
def test_the_limit_counts_everything(
    loaded: Any, samples: SampleSet, expected: list[Any], caplog: Any
) -> None:
    whole = Evaluator(*loaded, samples, BATCH)
    run(whole, expected, 4)
    size = whole.prefixes.tiers.bytes
    held = [held for parts in whole.prefixes._held.values() for held in parts.values()]
    storages = {}
    for one in held:
        for tensor in one.content.tensors():
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    assert size >= sum(storages.values()) > 0.9 * size  # batches that share a tensor count it twice
    caplog.clear()
    less = Evaluator(*loaded, samples, BATCH, cache=size // 2)
    with caplog.at_level(logging.WARNING):
        for schedule, outcomes in zip(trials(), expected, strict=True):
            assert less.evaluate(schedule) == outcomes
            assert 0 < less.prefixes.tiers.bytes <= size // 2
    assert sum("cache is full" in record.message for record in caplog.records) == 1
    assert less.prefixes.found and less.prefixes.missed > less.num_batches


@pytest.fixture
def on_disk(monkeypatch: Any, tmp_path: Path) -> Path:
    monkeypatch.setattr(places.Tiers, "_host_has", lambda self, size: False)
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_disk(on_disk: Path, loaded: Any, samples: SampleSet, expected: list[Any]) -> None:
    evaluator = Evaluator(*loaded, samples, BATCH)
    run(evaluator, expected)
    used = evaluator.prefixes.tiers.used
    files = list(on_disk.glob("*/*.safetensors"))
    assert used["disk"] == sum(file.stat().st_size for file in files) > 0 == used["host"]
    assert evaluator.prefixes.found and not list(on_disk.glob("*/*.tmp"))
    files[0].write_bytes(b"torn")
    files[1].unlink()
    run(evaluator, expected)
    del evaluator
    gc.collect()
    assert not list(on_disk.iterdir())
    stale = on_disk / "vtr_ray_prefix_killed"
    stale.mkdir()
    (stale / "lock").touch()
    (one := places.own_folder()), (other := places.own_folder())
    assert not stale.exists() and one.exists() and other.exists()


def test_a_new_folder_is_never_taken_for_a_dead_processs(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path))
    lock = places.fcntl.flock
    others: list[Path] = []

    def late(file: Any, how: int) -> None:
        """Another process makes a folder, and looks for dead ones, right before this one has its lock."""
        if not how & places.fcntl.LOCK_NB and not others:
            others.append(tmp_path)
            others.append(places.own_folder())
        lock(file, how)

    monkeypatch.setattr(places.fcntl, "flock", late)
    ours = places.own_folder()
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["lock", "lock"]
    assert ours.is_dir() and others[1].is_dir() and ours != others[1]


@pytest.mark.slow
@pytest.mark.parametrize("full", ["no space", "no room", "file size"])
def test_a_full_disk(
    full: str,
    on_disk: Path,
    loaded: Any,
    samples: SampleSet,
    expected: list[Any],
    monkeypatch: Any,
    caplog: Any,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if full == "no space":

        def save(tensors: Any, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(places, "save_file", save)
    elif full == "no room":
        usage = places.shutil.disk_usage(on_disk)._replace(free=1000)
        monkeypatch.setattr(places.shutil, "disk_usage", lambda _: usage)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            evaluator = Evaluator(*loaded, samples, BATCH)
            run(evaluator, expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert evaluator.prefixes.found == 0 == evaluator.prefixes.tiers.bytes
    assert sum("disk takes no more" in record.message for record in caplog.records) == 1
    assert [file.name for file in on_disk.glob("*/*")] in ([], ["lock"])


@contextmanager
def refused(layer: Any, refuse: Any) -> Iterator[None]:
    """`refuse` stands before the layer."""
    hook = layer.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.slow
def test_out_of_memory_gives_the_cache_up_first(
    loaded: Any, samples: SampleSet, expected: list[Any], caplog: Any
) -> None:
    evaluator = Evaluator(*loaded, samples, BATCH)
    run(evaluator, expected, 3)
    full, layer = evaluator.prefixes.tiers.near, family_of(loaded[0]).layers_of(loaded[0])[7]

    def refuse(*_: Any) -> None:
        if evaluator.prefixes.tiers.near > full // 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with refused(layer, refuse), caplog.at_level(logging.WARNING):
        run(evaluator, expected)
    assert 0 < evaluator.prefixes.tiers.near <= full // 2
    assert any("is given up" in record.message for record in caplog.records)
    assert not any("halved" in record.message for record in caplog.records)


@pytest.mark.slow
def test_out_of_memory_moves_the_batches_inputs_before_all_else(
    loaded: Any, samples: SampleSet, expected: list[Any], caplog: Any, monkeypatch: Any
) -> None:
    """As on a GPU that keeps them; here the first ones count as kept there."""
    evaluator = Evaluator(*loaded, samples, BATCH)
    run(evaluator, expected, 3)
    kept = list(evaluator._tensors.values())

    def resident(batch: Any) -> bool:
        return any(batch is one for one in kept)

    monkeypatch.setattr(evaluator, "_resident", resident)
    layer, near = family_of(loaded[0]).layers_of(loaded[0])[7], evaluator.prefixes.tiers.near

    def refuse(*_: Any) -> None:
        if any(map(resident, evaluator._tensors.values())):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with refused(layer, refuse), caplog.at_level(logging.WARNING):
        run(evaluator, expected)
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "Out of memory: the batches' inputs"
    ]
    assert evaluator._device_budget == 0 and evaluator.prefixes.tiers.near >= near > 0


@pytest.mark.slow
def test_batches_that_are_too_large_do_not_each_cost_the_cache(
    loaded: Any, samples: SampleSet, expected: list[Any], caplog: Any
) -> None:
    evaluator = Evaluator(*loaded, samples, 2)
    scores = [{one.sample_id: one.score for one in outcomes} for outcomes in expected]
    evaluator.evaluate(trials()[2])
    limit, layer = evaluator.prefixes.tiers.near_limit, family_of(loaded[0]).layers_of(loaded[0])[7]

    def refuse(_: Any, args: Any) -> None:
        if len(args[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with refused(layer, refuse), caplog.at_level(logging.WARNING):
        for number in (2, 3):
            found = evaluator.evaluate(trials()[number])
            assert {one.sample_id: one.score for one in found} == scores[number]
    said = [record.message for record in caplog.records]
    # Those decided in one pass, then those that generate; there are a dozen batches.
    assert sum("given up" in message for message in said) <= 2 and evaluator.num_batches == 12
    assert sum("halved" in message for message in said) <= 2
    assert evaluator.prefixes.tiers.near > 0 and evaluator.prefixes.tiers.near_limit == limit


def test_a_model_that_does_more_runs_whole(
    loaded: Any, samples: SampleSet, expected: list[Any], caplog: Any
) -> None:
    decoder = family_of(loaded[0]).decoder_of(loaded[0])

    def more(_: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.roll(1, -1)
        return output

    hook = decoder.register_forward_hook(more)
    try:
        plain = Evaluator(*loaded, samples, BATCH, cache=0).evaluate(trials()[2])
        evaluator = Evaluator(*loaded, samples, BATCH)
        with caplog.at_level(logging.WARNING):
            assert evaluator.evaluate(trials()[2]) == evaluator.evaluate(trials()[2]) == plain != expected[2]
    finally:
        hook.remove()
    assert evaluator.prefixes.tiers.bytes == evaluator.prefixes.found == 0
    assert sum("LlavaForConditionalGeneration does more" in record.message for record in caplog.records) == 1


def test_sizes() -> None:
    assert [parse_size(text) for text in ("4GiB", "0", "1.5 kib", "500MB", "7")] == [
        4 * 2**30, 0, 1536, 500_000_000, 7
    ]  # fmt: skip
    for text in ("", "-1GiB", "much", "4 GiBs", "inf", "nan"):
        with pytest.raises(InputError, match="the cache's size is"):
            parse_size(text)
    assert PrefixCache(0, torch.device("cpu")).layer(strategies.fastv(5)) is None


def captured(loaded: Any, samples: SampleSet) -> Any:
    """The state of a batch that generates, entering layer 6."""
    evaluator = Evaluator(*loaded, samples, BATCH)
    batch = evaluator._batch(evaluator._parts[-1][0])
    with (
        torch.inference_mode(),
        reduce_vision_tokens(
            evaluator.model, trials()[6], batch.prompt, batch.vision, capture=6
        ) as reduction,
    ):
        evaluator.model(**batch.inputs, use_cache=True)
    assert reduction.prefix is not None
    return reduction.prefix


def test_a_prefix_keeps_what_it_shares(loaded: Any, samples: SampleSet) -> None:
    """Each tensor once, whether kept, copied or written: `bytes` says what a copy takes."""
    prefix = captured(loaded, samples)
    copied = prefix.map(torch.clone)
    assert len(prefix.held) == 5 and copied.layout is copied.layouts[-1] is not prefix.layout
    assert sum(tensor.nbytes for tensor in copied.tensors()) >= copied.bytes > 0
    assert len({id(tensor) for tensor in copied.tensors()}) == len(list(prefix.tensors()))


@pytest.mark.parametrize("pins", [True, False])
def test_tier_after_tier(
    pins: bool, loaded: Any, samples: SampleSet, monkeypatch: Any, tmp_path: Path
) -> None:
    """As on a GPU: its memory, then pinned memory, as far as any can be pinned, then disk; then no more."""
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path))
    room = iter([True, True, False, False])
    monkeypatch.setattr(places.Tiers, "_host_has", lambda self, size: next(room))
    if pins:
        monkeypatch.setattr(places, "_pinned", torch.clone)
    else:  # without a driver, as here, no memory can be
        monkeypatch.setattr(places, "_pinned", lambda _: exec("raise RuntimeError('no driver')"))
    prefix = captured(loaded, samples)
    tiers = places.Tiers(6 * prefix.bytes, torch.device("cpu"))
    tiers._cuda, tiers.near_limit = True, prefix.bytes
    kept = [tiers.put(prefix) for _ in range(4)]
    names = ["device", "host", "host", "disk"] if pins else ["device", "disk", "disk", "disk"]
    assert [held.tier for held in kept if held] == names
    assert tiers.used["device"] == prefix.bytes and 3.9 * prefix.bytes < tiers.bytes <= 6 * prefix.bytes
    for held in kept:
        again = tiers.get(held)
        assert all(map(torch.equal, again.tensors(), prefix.tensors()))
        assert (again.layer, again.layout.counts, again.schedule) == (6, prefix.layout.counts, trials()[6])
    tiers.limit = tiers.bytes + prefix.bytes - 1
    assert tiers.put(prefix) is None
    for held in kept:
        tiers.drop(held)
    assert tiers.bytes == 0 and not list(tmp_path.glob("*/*.safetensors"))
