"""A search in a process of its own: RUN SECONDS [CPUS]."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

sys.path.append(str(Path(__file__).parent))
import tuning_toys as toys

from vtr_ray.errors import InputError
from vtr_ray.evaluation.pool import EvaluatorPool
from vtr_ray.interrupts import Interrupted
from vtr_ray.tuning.cluster import connected
from vtr_ray.tuning.run import run_search


def main(path: str, seconds: str, cpus: str = "1") -> int:
    ray.cloudpickle.register_pickle_by_value(toys)
    try:
        with connected(), EvaluatorPool(toys.Make(float(seconds)), cpus=float(cpus)) as pool:
            run_search(toys.new_search(), pool, path, toys.SETTINGS)
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
