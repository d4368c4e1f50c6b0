"""Fixtures over the tiny LLaVA; the options every folder shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Two test processes, and what they start, share the cores: threads that wait for each other must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from tiny_llava import make_llava, make_processor

torch.set_num_threads(1)
_RAY = ExitStack()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the families run: cpu, or cuda (bfloat16)")


def pytest_sessionfinish() -> None:
    _RAY.close()


@pytest.fixture(scope="module")
def ray_here() -> None:
    """Ray in this process; later modules find it running. Four CPUs: a bookkeeping figure."""
    import ray

    from vtr_ray.tuning.cluster import connected

    if not ray.is_initialized():
        _RAY.close()
        _RAY.enter_context(connected(cpus=4))


@pytest.fixture(scope="module")
def no_ray() -> None:
    """No Ray in this process, for modules that start or join one of their own."""
    _RAY.close()


@pytest.fixture
def tiny_llava() -> Any:
    """A tiny `LlavaForConditionalGeneration`: width 32, 5 decoder layers, 16 vision tokens an image, SDPA."""
    return make_llava()


@pytest.fixture
def llava_factory() -> Callable[..., Any]:
    """`make_llava`, for tests that need other text configurations or attention implementations."""
    return make_llava


@pytest.fixture(scope="session")
def tiny_llava_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny LLaVA checkpoint and its processor (word-level tokenizer, chat template)."""
    path = tmp_path_factory.mktemp("tiny-llava")
    make_llava().save_pretrained(path)
    make_processor().save_pretrained(path)
    return path
