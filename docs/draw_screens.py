"""Draws the README's pictures of the comparison page: `python docs/draw_screens.py RUN...`.

RUN: run directories as `vtr-ray compare` takes them, an evaluation with samples among them. Needs the `dev`
extra, chromium and chromium-driver.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from vtr_ray.report.page import read_runs, write_page

HERE, MOST = Path(__file__).parent, 200_000  # bytes of a picture
WIDTH, LAYERS_ON = 1440, 4


def main(runs: list[str]) -> None:
    """Writes `compare.png`, curves and table, and `compare_samples.png`, a sample in dark colours."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        with TemporaryDirectory() as folder:
            page = write_page(read_runs([Path(run) for run in runs]), Path(folder))
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": False},
            )
            driver.get(page.as_uri())
            save(driver, "#keeping-rates", "#benchmarks", "compare")
            driver.find_element(By.CSS_SELECTOR, ".theme").click()
            slider = driver.find_element(By.CSS_SELECTOR, ".viewer input[type=range]")
            slider.send_keys(Keys.ARROW_RIGHT * LAYERS_ON)
            driver.execute_script("document.activeElement.blur()")
            save(driver, "#samples", "#samples", "compare_samples")
    finally:
        driver.quit()


def save(driver: webdriver.Chrome, first: str, last: str, name: str) -> None:
    """The page from one section to another."""
    top, bottom = driver.execute_script(
        "return [document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY - 12,"
        " document.querySelector(arguments[1]).getBoundingClientRect().bottom + scrollY + 12]",
        first,
        last,
    )
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    picture.quantize(255, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)
    size = (HERE / f"{name}.png").stat().st_size
    print(f"{HERE / name}.png: {size} bytes{', too large' if size > MOST else ''}")


if __name__ == "__main__":
    main(sys.argv[1:])
