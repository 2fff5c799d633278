"""A headless Chromium for pages opened from disk; skipped with a reason where there is none."""

import shutil

import pytest


@pytest.fixture(scope="session")
def chrome(tmp_path_factory):
    """A driver whose downloads land in `chrome.downloads`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or chromedriver is not installed (apt-get install chromium-driver)")
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
        "--window-size=1400,1000",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.downloads = downloads
    yield chrome
    chrome.quit()


@pytest.fixture
def open_page(chrome):
    """Opens a file without what an earlier page stored; at the end nothing is in the console."""

    def open_page(path):
        chrome.get(path.as_uri())
        chrome.execute_script("localStorage.clear()")
        chrome.get(path.as_uri())
        return chrome

    chrome.get_log("browser")
    yield open_page
    assert [entry["message"] for entry in chrome.get_log("browser")] == []
