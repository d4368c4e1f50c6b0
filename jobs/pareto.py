"""The Pareto search as a Ray job; takes the options of `vtr-ray pareto`.

`ray job submit --working-dir . -- python jobs/pareto.py`
"""

import sys

from vtr_ray.cli import main

if __name__ == "__main__":
    main(["pareto", *sys.argv[1:]])
