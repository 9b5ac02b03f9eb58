"""Takes the pictures of docs/images from a running dashboard, in headless Chromium.

baton up --profile llama-3.1-8b@h200 --prefill 2 --decode 3 --detach
baton loadtest --rate 6 --duration 5m --input-tokens lognormal:4000,0.8 --output-tokens 40 &
python tools/screenshots.py URL TOKEN        # both in cluster.json of the state directory
"""

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
DESK, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 1500}


def picture(browser: Any, url: str, name: str, scheme: str, token: str = "", **how: Any) -> None:
    """how: viewport, and how much of the page."""
    page = browser.new_page(viewport=how["viewport"], color_scheme=scheme)
    page.goto(url)
    page.locator("#link[data-state=live]").wait_for()
    if token:
        _use(page, token)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # one look at the gateways, and the bars have come to rest
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=IMAGES / name, full_page=how.get("full_page", False))
    page.close()


def _use(page: Any, token: str) -> None:
    """Signs in, holds a ratio, asks a question of the planner, opens a request and a cell."""
    page.click("#token-button")
    page.fill("#operator-name", "Ada")
    page.fill("#operator-token", token)
    page.click("#ask-go")
    page.click("#ratio-button")
    page.fill("#ratio-prefill", "1")
    page.fill("#ratio-decode", "4")
    page.click("#ask-go")
    page.locator("#ask-plan li").first.wait_for()
    page.click("#ask-go")
    page.locator("#ask").wait_for(state="hidden")
    page.locator("#whatif-requests_s").fill("80")
    page.focus("#matrix")
    page.keyboard.press("ArrowRight")
    page.locator(".waterfall summary").nth(1).click()
    page.wait_for_timeout(20_000)  # until the history shows what was done


def main() -> int:
    url, token = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        picture(browser, url, "dashboard-light.png", "light", token, viewport=DESK, full_page=True)
        picture(browser, url, "dashboard-dark.png", "dark", viewport=DESK)
        picture(browser, url, "dashboard-phone.png", "light", viewport=PHONE)
        picture(browser, url, "dashboard-top.png", "light", viewport=DESK)
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
