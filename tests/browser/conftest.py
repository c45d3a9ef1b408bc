"""A real browser: Debian's chromium, driven over its own protocol, with a fresh profile."""

import os
import shutil
import tempfile

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from novita_async.cli._report import write_report
from tests.helpers.report_rows import batch

os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
    "disable-sync", "no-first-run", "disable-dev-shm-usage", "hide-scrollbars",
)  # fmt: skip


@pytest.fixture(scope="session")
def chromium():
    profile = tempfile.mkdtemp(prefix="report-browser-")
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def browser(chromium):
    """A window of a desktop, light, with empty logs."""
    chromium.get("about:blank")
    resize(chromium, 1280, 900)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    return chromium


def resize(browser, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The page of a batch of 5,000."""
    folder = tmp_path_factory.mktemp("batch")
    rows = batch(folder)
    write_report(rows, folder / "report.html", title="A <i>batch</i>", images_per_minute=10)
    return folder / "report.html"


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """A page with thumbnails, moved away from its pictures."""
    folder = tmp_path_factory.mktemp("moved")
    home = folder / "home"
    write_report(batch(home, 20), home / "report.html", embed=True)
    return (home / "report.html").replace(folder / "alone.html")
