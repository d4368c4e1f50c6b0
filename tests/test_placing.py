"""Where a model comes from and where it goes: one download per node, several GPUs per actor."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from vtr_ray.commands import inputs
from vtr_ray.commands.inputs import WAIT, ModelOptions, PoolOptions, Samples
from vtr_ray.errors import InputError
from vtr_ray.evaluation import evaluator
from vtr_ray.evaluation.evaluator import EvaluatorSpec
from vtr_ray.models import fetch_model, load_model, loading

REPOSITORY = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Stands in for the hub; the downloads asked of it."""
    asked: list[dict[str, Any]] = []

    def download(path: str, **options: Any) -> str:
        asked.append({"path": path, **options})
        if options.get("local_files_only") and path != "there/cached":
            raise OSError("not in the cache")
        return "/cache"

    def names(self: Any, path: str) -> list[str]:
        if path != "there/model":
            raise OSError(f"404: {path}\nmore")
        return REPOSITORY

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", names)
    return asked


def test_only_what_is_read_is_downloaded(hub: list[dict[str, Any]], tiny_llava_dir: Path) -> None:
    fetch_model("there/model")
    wanted = hub[0]["allow_patterns"]
    assert [name for name in REPOSITORY if any(Path(name).match(one) for one in wanted)] == [
        name for name in REPOSITORY if not name.endswith(".bin")
    ]
    fetch_model(str(tiny_llava_dir))
    assert len(hub) == 1


def test_without_a_hub_the_cache_serves(hub: list[dict[str, Any]]) -> None:
    fetch_model("there/cached")
    with pytest.raises(InputError, match=r"^Cannot download 'no/where': 404: no/where$"):
        fetch_model("no/where")


def test_actors_that_start_together_download_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llava_dir: Path
) -> None:
    """On a node that came later, so that nothing was downloaded to it before."""
    cache, downloads, busy = tmp_path / "cache", [], threading.Lock()

    def download(path: str, **options: Any) -> str:
        assert busy.acquire(blocking=False), "two download at the same time"
        time.sleep(0.1)
        if not (cache / "model").exists():
            (cache / "model").touch()
            downloads.append(path)
        busy.release()
        return str(cache)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, path: REPOSITORY)
    loaded = load_model(str(tiny_llava_dir))
    monkeypatch.setattr(evaluator, "load_model", lambda path, **options: loaded)
    counted: Any = lambda *_, **__: len(downloads)  # noqa: E731
    nothing: Any = lambda: None  # noqa: E731
    actors = [EvaluatorSpec("there/model", samples=nothing, kind=counted) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(EvaluatorSpec.build, actors)) == [1] * 4
    assert downloads == ["there/model"]


def test_split_needs_gpus_and_room_on_them(tiny_llava_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"^Device 'cuda' cannot be used"):
            load_model(str(tiny_llava_dir), device="split")
        # With a GPU that holds nothing everything would land on the CPU.
        monkeypatch.setattr(loading, "device_of", lambda device: torch.device("cpu"))
        with pytest.raises(InputError, match=r"does not fit on the 0 GPUs .* on cpu\); .*--gpus-per-actor"):
            load_model(str(tiny_llava_dir), device="split")


class Opened(Exception):
    """What the pool was asked for."""


@pytest.mark.parametrize(
    ("gpus", "device", "with_gpus"), [(2.0, "split", True), (0.5, "auto", True), (0.0, "auto", False)]
)
def test_a_pool_downloads_first_and_splits_over_several_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: float, device: str, with_gpus: bool
) -> None:
    steps: list[Any] = []

    def pool(factory: Any, **options: Any) -> None:
        raise Opened(factory.__self__.device, options)

    monkeypatch.setattr(inputs, "on_every_node", lambda call, gpus: steps.append((call.args, gpus)))
    monkeypatch.setattr(inputs, "fair_share", lambda actors: (1.0, 0.0))
    monkeypatch.setattr(inputs, "EvaluatorPool", pool)
    monkeypatch.setenv(WAIT, "90")
    samples = Samples(set=None, load=lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(Opened) as opened:
        PoolOptions(actors=4, gpus=gpus).open(ModelOptions("there/model"), samples, "search", say=print)
    assert steps == [(("there/model",), with_gpus)]
    said, options = opened.value.args
    assert said == device and options["gpus"] == gpus and options["wait_for_nodes"] == 90.0
    monkeypatch.setenv(WAIT, "soon")
    with pytest.raises(InputError, match=r"^VTR_RAY_WAIT_FOR_NODES is 'soon'"):
        PoolOptions().open(ModelOptions(), samples, "search", say=print)
