"""Generated pictures: pure functions of a seeded `random.Random`, no global state."""

from vtr_ray.embedded.draw.charts import chart
from vtr_ray.embedded.draw.clips import Clip, clip
from vtr_ray.embedded.draw.picture import COLORS, GRID, PATCH, SIZE, Draw, Picture
from vtr_ray.embedded.draw.scenes import existence, scene
from vtr_ray.embedded.draw.writing import document, text

DRAWS: dict[str, Draw] = {
    "scenes": scene,
    "existence": existence,
    "text": text,
    "documents": document,
    "charts": chart,
}

__all__ = ["COLORS", "DRAWS", "GRID", "PATCH", "SIZE", "Clip", "Draw", "Picture", "clip"]
