"""MLflow, and the only room that imports it: searches, evaluations, registered schedules."""

from vtr_ray.tracking.evaluations import log_evaluation
from vtr_ray.tracking.pages import fetch_run, log_page
from vtr_ray.tracking.registry import register_schedule, registered_schedule
from vtr_ray.tracking.searches import EXPERIMENT, LINK, Tracker, log_run
from vtr_ray.tracking.studies import log_study

__all__ = [
    "EXPERIMENT",
    "LINK",
    "Tracker",
    "fetch_run",
    "log_evaluation",
    "log_page",
    "log_run",
    "log_study",
    "register_schedule",
    "registered_schedule",
]
