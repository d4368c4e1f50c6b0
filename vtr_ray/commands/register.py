"""`vtr-ray register`: a schedule into MLflow's model registry."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from vtr_ray.commands.named import given_schedule
from vtr_ray.commands.searching import home
from vtr_ray.store import default_uri
from vtr_ray.tracking import register_schedule


def register(schedule: Path, name: str, alias: str, console: Console) -> None:
    """Registers it as a new version, and says how every command takes it.

    Raises:
        InputError: no such schedule, a name that MLflow does not take, MLflow cannot be reached.
    """
    given = given_schedule(schedule)
    run = None if given.search is None else Path(given.search)
    address = register_schedule(given.schedule, name, default_uri(home()), run, alias)
    also = f", now mlflow:{name}@{alias}" if alias else ""
    cost = given.schedule.memory_cost
    console.print(f"Registered {address}{also}: memory cost {cost:.3f}.", highlight=False)
