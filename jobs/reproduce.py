"""A table of the paper, ours beside it, as a Ray job; takes the options of `vtr-ray reproduce`.

`ray job submit --working-dir . -- python jobs/reproduce.py`
"""

import sys

from vtr_ray.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
