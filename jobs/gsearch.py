"""G-Search as a Ray job; takes the options of `vtr-ray gsearch`.

`ray job submit --working-dir . -- python jobs/gsearch.py`
"""

import sys

from vtr_ray.cli import main

if __name__ == "__main__":
    main(["gsearch", *sys.argv[1:]])
