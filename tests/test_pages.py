"""What opens in a browser: the canvas of lesson 0 in a real JupyterLab, and the book; neither asks another host for anything."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from conftest import ROOT

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "google-chrome"))
                 if path and "/snap/" not in path), None)  # a snap does not see /tmp


@pytest.fixture
def page():
    """A page of a headless browser, and the hosts that it asked."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, hosts = browser.new_page(viewport={"width": 1400, "height": 1000}), set()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        yield page
        browser.close()
    assert hosts <= {"127.0.0.1", None, ""}, hosts


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab with a copy of lesson 0; its address."""
    pytest.importorskip("anywidget")
    text = (ROOT / "notebooks/00_first_look.ipynb").read_text(encoding="utf-8")
    (tmp_path / "00_first_look.ipynb").write_text(text.replace("runs/00_first_look", (tmp_path / "run").as_posix()), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    command = f"-m jupyterlab --no-browser --allow-root --ip 127.0.0.1 --port {port} --IdentityProvider.token={token}"
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_PREFER_ENV_PATH": "1"}
    server = subprocess.Popen([sys.executable, *command.split(), "--notebook-dir", tmp_path], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/00_first_look.ipynb?token={token}"
    finally:
        server.kill()


def test_a_triangle_and_a_circle_drawn_with_the_mouse_are_seen(page, lab):
    page.goto(lab)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
    canvas = page.locator(".play canvas")
    canvas.wait_for(timeout=90_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
    def draw(tool, points, seen):
        page.get_by_role("button", name=tool, exact=True).click()
        canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
        page.wait_for_timeout(500)
        box = canvas.bounding_box()
        places = [(box["x"] + x * box["width"] / 512, box["y"] + y * box["height"] / 512) for x, y in points]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            if tool == "straight lines":  # each corner is a click
                page.mouse.up()
            page.mouse.move(*place)
            if tool == "straight lines":
                page.mouse.down()
        page.mouse.up()
        page.locator(".said", has_text=re.compile(seen)).wait_for(timeout=120_000)
    draw("straight lines", [(100, 300), (300, 300), (200, 100), (100, 300)], "triangle")
    draw("circle", [(270, 290), (330, 330)], "circle, triangle")
    page.screenshot(path=os.environ.get("PLAY_SCREENSHOT", os.devnull), type="png")


def test_the_book_is_built_without_a_warning_and_can_be_clicked_through(tmp_path, request):
    pytest.importorskip("myst_nb")
    command = ["-m", "sphinx", "-q", "-W", "-c", ROOT / "notebooks", ROOT, tmp_path]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    page = request.getfixturevalue("page")
    page.goto((tmp_path / "notebooks/index.html").as_uri())
    titles = {page.title()}
    for _ in range(8):  # from page to page by "next"
        with page.expect_navigation():
            page.locator("a.right-next").click()
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)"), page.url
        titles.add(page.title())
    assert len(titles) == 9
    page.goto((tmp_path / "search.html").as_uri() + "?q=dropout")
    page.goto(page.locator("#search-results a").first.evaluate("found => found.href"))  # the list still grows: a click may miss
    assert "dropout" in page.content().lower()
