"""Chromium's EventSource on a page of another origin, through outages, early answers and limits."""

import asyncio
import contextlib
import http.server
import threading

from lab import free_port, need, until
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PAGE = b"<!doctype html><title>stacks</title>"
WATCH = """
const source = new EventSource(arguments[0], {withCredentials: true});
window.seen = {ticks: 0, last: 0, opens: 0, dead: false};
source.onopen = () => seen.opens += 1;
source.onerror = () => seen.dead = source.readyState === EventSource.CLOSED;
source.addEventListener("tick", (event) => {
  seen.ticks += 1;
  seen.last = Number(event.lastEventId);
});
"""
# So that a client of a test comes back within its patience.
QUICK = ["--limit-retry-after=1s", "--rotation-retry=200ms", "--heartbeat-interval=50ms"]


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


class Browser:
    """A page on an origin of its own."""

    def __init__(self):
        self.pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=self.pages.serve_forever, daemon=True).start()
        self.origin = f"http://127.0.0.1:{self.pages.server_port}"
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(flag)
        options.binary_location = need("chromium")
        self.driver = webdriver.Chrome(options, Service(need("chromedriver")))
        self.driver.get(self.origin)

    def close(self):
        self.driver.quit()
        self.pages.shutdown()

    async def watch(self, url):
        await asyncio.to_thread(self.driver.execute_script, WATCH, url)

    async def seen(self):
        return await asyncio.to_thread(self.driver.execute_script, "return window.seen")

    async def reaches(self, what, condition):
        async def holds():
            seen = await self.seen()
            assert not seen["dead"], f"the EventSource is dead before: {what}"
            return condition(seen)

        await until(what, holds)


@contextlib.asynccontextmanager
async def browser():
    need("chromium")
    need("chromedriver")
    page = await asyncio.to_thread(Browser)
    try:
        yield page
    finally:
        await asyncio.to_thread(page.close)


async def outage(lab, *flags, path="/feed"):
    """The upstream goes, is away while a page opens its EventSource, and comes back."""
    async with browser() as page:
        port = free_port()
        app = await lab.python("app.py", page.origin, port=port)
        guard = await lab.guard(app.url, *QUICK, *flags)
        await page.watch(f"{guard.url}{path}")
        await page.reaches("events", lambda seen: seen["ticks"] > 5)
        before = await page.seen()
        app.kill()
        # A new one, as if the page were loaded again: its upstream is away already.
        await page.watch(f"{guard.url}{path}")
        await page.reaches("an answer without its upstream", lambda seen: seen["opens"] > 0)
        await lab.python("app.py", page.origin, port=port)
        await page.reaches("events again", lambda seen: seen["ticks"] > 5)
        return before


async def case_upstream_away_is_told_to_come_back(lab):
    await outage(lab)


async def case_upstream_away_waits(lab):
    await outage(lab, "--upstream-unavailable=wait", "--resume-mode=on")


async def case_early_answers_reach_another_origin(lab):
    async with browser() as page:
        app = await lab.python("app.py", page.origin)
        guard = await lab.guard(app.url, *QUICK, "--early-enabled", "--early-after=100ms")
        # What the upstream allows is learned from an answer of its own.
        await page.watch(f"{guard.url}/feed")
        await page.reaches("events", lambda seen: seen["ticks"] > 0)
        await page.watch(f"{guard.url}/late")
        await page.reaches("events behind the early answer", lambda seen: seen["ticks"] > 5)


async def case_a_client_over_its_limit_comes_back(lab):
    async with browser() as page:
        app = await lab.python("app.py", page.origin)
        guard = await lab.guard(
            app.url, *QUICK, "--limit-per-ip=1", "--limit-reject=retry-later"
        )
        await page.watch(f"{guard.url}/feed")
        await page.reaches("events", lambda seen: seen["ticks"] > 0)
        await page.watch(f"{guard.url}/feed")
        await page.reaches("refusals that say when to come back", lambda seen: seen["opens"] > 1)
