from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> tuple[str, torch.dtype]:
    """Device and precision: float32 on the CPU; bfloat16 wherever `--device` points."""
    device = request.config.getoption("--device")
    return device, torch.float32 if device == "cpu" else torch.bfloat16
