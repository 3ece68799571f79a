"""
The console where calls need a token, in a real browser: the gateway alone, before a service that answers everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import visibility_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

from embedded.s3 import S3
from embedded.testing import scratch
from gateway.access import Tokens
from gateway.tests import harness
from gateway.tests.echo import Echo
from services.chassis.access import AccessMode
from tests.tokens import AUDIENCE, ISSUER, Issuer

LIST = "#operations-ModelService-ModelService_ListModels"


@pytest.fixture(scope="module")
def closed() -> Iterator[tuple[harness.Edge, Echo, Issuer]]:
    """
    A gateway that wants a token for everything, its service, and who issues tokens.
    """
    echo = Echo()
    with scratch() as state, echo.served() as port:
        issuer = Issuer(state / "jwks.json")
        tokens = Tokens(AccessMode.ON, ISSUER, AUDIENCE, issuer.file)
        services = {"registry": port, "cache": port}
        with harness.gateway(S3(state, 1), state, tokens=tokens, services=services) as edge:
            yield edge, echo, issuer


def find(browser: Chrome, selector: str) -> WebElement:
    return WebDriverWait(browser, 30).until(visibility_of_element_located((By.CSS_SELECTOR, selector)))


def execute(browser: Chrome, status: str) -> str:
    """
    Try ListModels and return the answer that is shown, as soon as it has that status.
    """
    find(browser, f"{LIST} .execute").click()
    shown = f"{LIST} .live-responses-table .response .response-col_status"
    WebDriverWait(browser, 30).until(lambda _: find(browser, shown).text.startswith(status))
    return find(browser, f"{LIST} .live-responses-table .highlight-code").text


def test_the_console_signs_in_with_a_token(
    browser: Chrome, closed: tuple[harness.Edge, Echo, Issuer], pictures: Path
) -> None:
    """
    Without a token a call is refused and says why; with the one that was given to Authorize it is made. The token is in
    the page alone, which forgets it, and the page's strict policy is in nobody's way.
    """
    edge, echo, issuer = closed
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.get(f"http://127.0.0.1:{edge.port}/")
    find(browser, "#operations-tag-ModelService").click()
    find(browser, f"{LIST} .opblock-summary-control").click()
    assert "TOKEN_MISSING" in execute(browser, "401")

    find(browser, ".auth-wrapper .authorize").click()
    find(browser, ".auth-container input").send_keys(issuer.mint("registry.read", sub="console"))
    browser.save_screenshot(str(pictures / "authorize.png"))
    find(browser, ".auth-btn-wrapper .authorize").click()
    find(browser, ".auth-btn-wrapper .btn-done").click()
    execute(browser, "200")
    assert echo.told[-1]["x-modelyard-subject"] == "console"
    browser.save_screenshot(str(pictures / "signed-in.png"))

    stored = "return [Object.keys(localStorage).length, Object.keys(sessionStorage).length, document.cookie]"
    assert browser.execute_script(stored) == [0, 0, ""]
    said = [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]
    assert [message for message in said if "status of 401" not in message] == []

    browser.refresh()
    find(browser, "#operations-tag-ModelService")
    if not browser.find_elements(By.CSS_SELECTOR, f"{LIST} .execute"):
        if not browser.find_elements(By.CSS_SELECTOR, LIST):
            find(browser, "#operations-tag-ModelService").click()
        find(browser, f"{LIST} .opblock-summary-control").click()
    assert "TOKEN_MISSING" in execute(browser, "401")
