"""Signals and addresses; what needs a running Ray is in test_run.py."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from vtr_ray.errors import InputError
from vtr_ray.interrupts import Interrupted, interruptible
from vtr_ray.tuning.cluster import connected

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_the_old_handler_comes_back(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as caught, interruptible(), interruptible():
        os.kill(os.getpid(), signum)
    assert caught.value.signum == signum and str(caught.value) == f"stopped by {signum.name}"
    assert signal.getsignal(signum) is before


def test_an_interrupt_that_ray_replaced_still_names_its_signal() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM"), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # what ray.wait does


def test_an_interrupt_that_somebody_took_away_is_raised_at_the_end() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGINT"), interruptible(), suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_without_a_signal_stays_what_it_is() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise KeyboardInterrupt


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_an_address_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=rf"^RAY_ADDRESS is {address}; set HOST:PORT"), connected():
        pass
