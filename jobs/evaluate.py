"""The comparison of schedules and strategies as a Ray job; takes the options of `vtr-ray evaluate`.

`ray job submit --working-dir . -- python jobs/evaluate.py`
"""

import sys

from vtr_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
