"""P-Sigmoid searches as a Ray job; takes the options of `vtr-ray psigmoid`.

`ray job submit --working-dir . -- python jobs/psigmoid.py`
"""

import sys

from vtr_ray.cli import main

if __name__ == "__main__":
    main(["psigmoid", *sys.argv[1:]])
