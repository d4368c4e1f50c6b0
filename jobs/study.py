"""A study of the paper as a Ray job; takes the options of `vtr-ray study`.

`ray job submit --working-dir . -- python jobs/study.py`
"""

import sys

from vtr_ray.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
