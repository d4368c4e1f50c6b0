"""A search in a process of its own: RUN SECONDS [CPUS [MLFLOW]]."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import ray

sys.path.append(str(Path(__file__).parent))
import tuning_toys as toys

from vtr_ray.errors import InputError
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.interrupts import Interrupted
from vtr_ray.tracking import Tracker
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.run import run_search


def main(path: str, seconds: str, cpus: str = "1", store: str = "") -> int:
    ray.cloudpickle.register_pickle_by_value(toys)
    name = Path(path).parent.name
    try:
        with (
            Tracker(path, store, experiment=name) if store else nullcontext() as tracker,
            connected(),
            EvaluatorPool(toys.Make(float(seconds)), cpus=float(cpus)) as pool,
        ):
            run_search(toys.new_search(), pool, path, toys.SETTINGS, tracker=tracker)
    except InputError as error:
        print(error)
        return 2
    except Interrupted as stopped:
        print(stopped)
        return 128 + stopped.signum
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
