"""MLflow, and the only room that imports it: searches, evaluations, registered schedules."""

from vtr_ray.tracking.evaluations import log_evaluation
from vtr_ray.tracking.registry import register_schedule, registered_schedule
from vtr_ray.tracking.searches import EXPERIMENT, LINK, Tracker, log_run

__all__ = [
    "EXPERIMENT",
    "LINK",
    "Tracker",
    "log_evaluation",
    "log_run",
    "register_schedule",
    "registered_schedule",
]
