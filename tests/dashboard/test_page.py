"""The page in headless Chromium over a real cluster."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

TOKEN = "operator-secret"

AUDIT = Path(__file__).with_name("page_audit.js").read_text()


def sign_in(page: Any, token: str = TOKEN) -> None:
    page.click("#token-button")
    page.fill("#operator-name", "Ada")
    page.fill("#operator-token", token)
    page.click("#ask-go")


def confirm(page: Any, plan: str) -> None:
    """Waits until the plan is shown, and has it done."""
    expect(page.locator("#ask-plan")).to_contain_text(plan)
    expect(page.locator("#ask-go")).to_be_enabled()
    page.click("#ask-go")
    expect(page.locator("#ask")).not_to_be_visible()


def row(page: Any, worker_id: str) -> Any:
    return page.locator(".grid-row", has_text=worker_id)


def test_it_loads_within_a_second_says_nothing_and_asks_nobody_else(
    served: Any, look: Callable[..., Any]
) -> None:
    took_ms = []
    for _ in range(3):  # the machine may be busy with another test for a moment
        one = look(served.url)
        navigation = "performance.getEntriesByType('navigation')[0]"
        took_ms.append(one.page.evaluate(f"{navigation}.loadEventEnd"))
    assert min(took_ms) < 1000, took_ms
    expect(one.page.locator("#workers-count")).to_contain_text("4 workers")
    expect(one.page.locator("#pool-prefill [data-size=actual] dd")).to_have_text("2")
    assert not one.complaints
    assert all(url.startswith(served.url) for url in one.asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_enough_contrast(
    served: Any, look: Callable[..., Any], ask_cluster: Callable[..., str], scheme: str
) -> None:
    ask_cluster(served)
    one = look(served.url, scheme=scheme)
    expect(one.page.locator("html")).to_have_attribute("data-theme", scheme)
    one.page.locator(".waterfall details").first.wait_for()
    one.page.locator(".waterfall summary").first.click()
    assert one.page.evaluate(AUDIT) == []
    one.page.click("#token-button")
    assert one.page.evaluate(AUDIT) == []
    assert len(one.page.locator("main, nav, header, footer").all()) >= 4


def test_it_fits_a_phone(served: Any, look: Callable[..., Any]) -> None:
    one = look(served.url, width=390, height=844)
    one.page.locator(".waterfall, #workers-count").first.wait_for()
    expect(one.page.locator("#workers-count")).to_contain_text("4 workers")
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_moves_for_who_wants_less_motion(served: Any, look: Callable[..., Any]) -> None:
    page = look(served.url).page
    seconds = "getComputedStyle(document.querySelector('.bar i')).transitionDuration"
    page.locator(".bar i").first.wait_for(state="attached")
    assert page.evaluate(seconds) == "0.4s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(seconds) == "0s"


def test_a_keyboard_reaches_a_worker_and_leaves_it(served: Any, look: Callable[..., Any]) -> None:
    page = look(served.url).page
    expect(page.locator("#workers-count")).to_contain_text("4 workers")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    for _ in range(30):
        if page.evaluate("document.activeElement.id") == "workers-table":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#drawer")).to_be_visible()
    expect(page.locator("#drawer-title")).to_contain_text("decode-1")
    page.keyboard.press("Escape")
    expect(page.locator("#drawer")).not_to_be_visible()


def test_a_pair_is_read_by_keyboard_with_its_bandwidth_and_latency(
    served: Any, look: Callable[..., Any]
) -> None:
    page = look(served.url).page
    expect(page.locator("#transfers-count")).to_contain_text("12 pairs")
    page.focus("#matrix")
    page.keyboard.press("ArrowRight")  # from decode-0's cell of itself to that of decode-1
    cell = page.locator("#matrix-cell")
    expect(cell).to_contain_text("decode-0 to decode-1")
    expect(cell).to_contain_text("B/s, latency ")
    page.keyboard.press("ArrowLeft")
    expect(cell).to_contain_text("does not read from itself")
    page.select_option("#matrix-measure", "exposed")
    expect(page.locator("#matrix-legend")).to_contain_text("more of the transfer shows")


def test_the_load_of_the_last_minutes_is_drawn(served: Any, look: Callable[..., Any]) -> None:
    page = look(served.url).page
    expect(page.locator("#history-note")).to_contain_text("From the control plane")
    for name in ("load", "pools", "shares"):
        expect(page.locator(f"#chart-{name} canvas")).to_be_visible()
    page.select_option("#history-minutes", "60")
    expect(page.locator("#chart-load canvas")).to_be_visible()


def test_a_flip_is_shown_within_two_seconds(served: Any, look: Callable[..., Any]) -> None:
    page = look(served.url).page
    expect(page.locator("#pool-decode [data-size=actual] dd")).to_have_text("2")
    took_s = []
    for role in ("decode", "prefill"):
        body = {"worker_id": "prefill-0", "role": role}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{served.url}/api/v1/actions/flip"
        answer = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=20)
        assert answer.status_code == 200, answer.text
        asked_s = time.monotonic()
        expect(row(page, "prefill-0").locator(f".role-{role}")).to_be_visible()
        took_s.append(time.monotonic() - asked_s)
        item = page.locator("#decision-list", has_text=f"prefill-0 became {role}")
        expect(item).to_be_visible()
    assert min(took_s) < 2.0, took_s


def test_without_a_token_nobody_acts(served: Any, look: Callable[..., Any]) -> None:
    refused = httpx.post(f"{served.url}/api/v1/actions/pause", json={}, trust_env=False, timeout=60)
    assert refused.status_code == 401
    page = look(served.url).page
    page.click("#pause-button")
    expect(page.locator("#ask-title")).to_have_text("Sign in to act")
    page.fill("#operator-token", "wrong")
    page.click("#ask-go")
    expect(page.locator("#ask-error")).to_contain_text("no valid operator token")
    expect(page.locator("#ask-go")).to_be_disabled()


def test_an_action_is_shown_as_a_plan_confirmed_and_written_down(
    served: Any, look: Callable[..., Any]
) -> None:
    page = look(served.url).page
    sign_in(page)
    expect(page.locator("#token-button")).to_have_text("Signed in as Ada")
    page.click("#pause-button")
    expect(page.locator("#ask-plan")).to_contain_text("the planner is paused")
    expect(page.locator("#planner-line")).not_to_contain_text("paused")
    page.fill("#reason", "a rehearsal")
    page.click("#ask-go")
    expect(page.locator("#planner-line")).to_contain_text("paused by Ada")
    expect(page.locator("#audit-rows tr").first).to_contain_text("done")
    expect(page.locator("#audit-rows")).to_contain_text("only tried")
    page.click("#pause-button")
    expect(page.locator("#ask-title")).to_have_text("Resume the planner")
    expect(page.locator("#ask-go")).to_be_enabled()
    page.click("#ask-go")
    expect(page.locator("#pause-button")).to_have_text("Pause planner")


def test_a_worker_is_flipped_and_drained_from_its_drawer(
    served: Any, look: Callable[..., Any]
) -> None:
    page = look(served.url).page
    sign_in(page)
    for role in ("prefill", "decode"):
        row(page, "decode-1").click()
        page.click("#drawer >> text=Flip role")
        confirm(page, f"flip decode-1 to {role}")
        page.keyboard.press("Escape")
        expect(row(page, "decode-1").locator(f".role-{role}")).to_be_visible()
    row(page, "decode-1").click()
    page.click("#drawer >> text=Drain")
    confirm(page, "drain decode-1")
    expect(page.locator("#audit-rows tr").first).to_contain_text("drain decode-1")
    expect(page.locator("#audit-rows tr").first).to_contain_text("done")
    # Its process ends, and a new one takes its place.
    expect(page.locator("#drawer-facts")).to_contain_text("Restarts1")
    expect(row(page, "decode-1")).to_contain_text("serving")


def test_a_ratio_is_set_pinned_and_given_back(served: Any, look: Callable[..., Any]) -> None:
    page = look(served.url).page
    sign_in(page)
    for prefill, decode in [(1, 3), (2, 2)]:
        page.click("#ratio-button")
        page.fill("#ratio-prefill", str(prefill))
        page.fill("#ratio-decode", str(decode))
        page.click("#ask-go")
        confirm(page, "flip ")
        expect(page.locator("#pool-decode [data-size=actual] dd")).to_have_text(str(decode))
        expect(page.locator("#planner-line")).to_contain_text(f"pinned at {prefill}P : {decode}D")
    page.click("#unpin-button")
    expect(page.locator("#ask-go")).to_be_enabled()
    page.click("#ask-go")
    expect(page.locator("#unpin-button")).not_to_be_visible()


def test_a_ratio_outside_of_the_bounds_is_refused_with_the_limit(
    served: Any, look: Callable[..., Any]
) -> None:
    page = look(served.url).page
    sign_in(page)
    page.click("#ratio-button")
    page.fill("#ratio-prefill", "0")
    page.fill("#ratio-decode", "1")
    page.click("#ask-go")
    expect(page.locator("#ask-error")).to_contain_text("minimum of 1")
    expect(page.locator("#ask-go")).to_be_disabled()


def test_requests_are_found_by_id_with_the_routers_explanation(
    served: Any, look: Callable[..., Any], ask_cluster: Callable[..., str]
) -> None:
    request_id = ask_cluster(served, 900)
    page = look(served.url).page
    page.fill("#request-id", request_id)
    page.click("#request-search button")
    expect(page.locator(".waterfall details")).to_have_count(1)
    expect(page.locator(".trace")).to_contain_text("The router: ")
    expect(page.locator(".trace")).to_contain_text("900 tokens")
    page.fill("#request-id", "cmpl-nobody")
    page.click("#request-search button")
    expect(page.locator("#request-note")).to_contain_text("no gateway remembers")


def test_sliders_are_answered_by_the_planner(
    served: Any, look: Callable[..., Any], ask_cluster: Callable[..., str]
) -> None:
    for _ in range(4):
        ask_cluster(served)
    page = look(served.url).page
    expect(page.locator("#whatif-answer")).to_contain_text("Move a slider")
    page.locator("#whatif-requests_s").fill("95")
    expect(page.locator("#whatif-answer")).not_to_contain_text("Move a slider")
    expect(page.locator("#whatif-answer strong")).to_contain_text("P")
