"""The HTML page that compares runs."""

from vtr_ray.report.page.build import INDEX, write_page
from vtr_ray.report.page.inputs import Inputs, read_runs

__all__ = ["INDEX", "Inputs", "read_runs", "write_page"]
