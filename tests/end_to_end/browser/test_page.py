"""
The gateway seen from a real browser: the page at /, its console, and gRPC-Web.
"""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import grpc
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import visibility_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

import modelyard
from embedded.stack import Stack
from modelyard.registry.v1 import models_pb2, namespaces_pb2

SPACE = "namespaces/browser"
NAMES = [f"{SPACE}/models/{name}" for name in ("convnext", "resnet", "vit")]

# A call as a browser's gRPC-Web library makes it: a frame is a flag, a length and a message, and the last one has the
# trailers.
_CALL = """
const [path, message, done] = arguments;
const request = Uint8Array.from(atob(message), (each) => each.charCodeAt(0));
const framed = new Uint8Array(5 + request.length);
new DataView(framed.buffer).setUint32(1, request.length);
framed.set(request, 5);
fetch(path, {
  method: "POST",
  headers: {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
  body: framed,
}).then(async (answer) => {
  const bytes = new Uint8Array(await answer.arrayBuffer());
  done([answer.status, answer.headers.get("content-type"), answer.headers.get("grpc-status"),
        btoa(String.fromCharCode(...bytes))]);
}).catch((error) => done([0, String(error), null, ""]));
"""


@pytest.fixture(scope="module", autouse=True)
def models(yard: modelyard.Client) -> None:
    """
    Three models in a namespace of their own.
    """
    parent = namespaces_pb2.CreateNamespaceRequest(namespace_id="browser", namespace=namespaces_pb2.Namespace())
    yard.namespaces.CreateNamespace(parent)
    for name in NAMES:
        request = models_pb2.CreateModelRequest(
            parent=SPACE, model_id=name.rpartition("/")[2], model=models_pb2.Model(task="image-classification")
        )
        yard.models.CreateModel(request)


@pytest.fixture(scope="module")
def page(browser: Chrome, stack: Stack) -> Chrome:
    """
    The browser with the page in it, as soon as the reference is there. It is loaded once.
    """
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.get(f"http://{stack.gateway}/")
    find(browser, "#operations-tag-ModelService")
    return browser


def find(browser: Chrome, selector: str) -> WebElement:
    """
    An element, as soon as it can be seen.
    """
    return WebDriverWait(browser, 30).until(visibility_of_element_located((By.CSS_SELECTOR, selector)))


def frames(body: str) -> list[tuple[int, bytes]]:
    """
    The flags and the content of the frames of a gRPC-Web answer.
    """
    data, found = base64.b64decode(body), []
    while data:
        flags, length = struct.unpack(">BI", data[:5])
        found.append((flags, data[5 : 5 + length]))
        data = data[5 + length :]
    return found


def call(page: Chrome, method: str, request: Any) -> tuple[int, str, str | None, str]:
    """
    What a gRPC-Web call of a script in the page gets: HTTP status, type, status in the headers, and body.
    """
    message = base64.b64encode(request.SerializeToString()).decode()
    found = page.execute_async_script(_CALL, f"/modelyard.registry.v1.ModelService/{method}", message)
    return found[0], found[1], found[2], found[3]


def test_the_page_shows_the_reference(page: Chrome, pictures: Path) -> None:
    """
    The page has a section for every service, loads nothing from elsewhere, and its policy is in nobody's way.
    """
    assert page.title == "Modelyard"
    shown = {each.get_dom_attribute("data-tag") for each in page.find_elements(By.CSS_SELECTOR, "[data-tag]")}
    assert {"ModelService", "VersionService", "AssetService", "KeyValueService"} <= shown
    page.save_screenshot(str(pictures / "page.png"))
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert {url for url in loaded if not url.startswith((page.current_url, "data:"))} == set()
    assert [entry["message"] for entry in page.get_log("browser")] == []  # type: ignore[no-untyped-call]


def test_the_console_makes_calls(page: Chrome, pictures: Path) -> None:
    """
    A call that is tried on the page shows the gateway's answer.
    """
    find(page, "#operations-tag-ModelService").click()
    operation = "#operations-ModelService-ModelService_ListModels"
    find(page, f"{operation} .opblock-summary-control").click()
    field = find(page, f'{operation} [data-param-name="namespace"] input')
    field.clear()
    field.send_keys("browser")
    find(page, f"{operation} .execute").click()
    answer = find(page, f"{operation} .live-responses-table .highlight-code")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", answer)
    page.save_screenshot(str(pictures / "console.png"))
    for name in NAMES:
        assert name in answer.text


def test_grpc_web_lists_models(page: Chrome) -> None:
    """
    fetch() of application/grpc-web+proto from the gateway's own page gets the models and the status.
    """
    request = models_pb2.ListModelsRequest(parent=SPACE)
    status, kind, _, body = call(page, "ListModels", request)
    assert (status, kind) == (200, "application/grpc-web+proto"), kind
    (flags, message), (last, trailers) = frames(body)
    assert [model.name for model in models_pb2.ListModelsResponse.FromString(message).models] == NAMES
    assert (flags, last) == (0, 0x80)
    assert b"grpc-status:0" in trailers


def test_grpc_web_searches_models(page: Chrome) -> None:
    """
    A search finds the model by its words.
    """
    request = models_pb2.SearchModelsRequest(parent=SPACE, query="resn")
    (_, message), _ = frames(call(page, "SearchModels", request)[3])
    assert [model.name for model in models_pb2.SearchModelsResponse.FromString(message).models] == [NAMES[1]]


def test_grpc_web_errors_reach_the_script(page: Chrome) -> None:
    """
    A script can read the status of a call that is refused.
    """
    request = models_pb2.GetModelRequest(name=f"{SPACE}/models/missing")
    status, _, code, body = call(page, "GetModel", request)
    said = code or frames(body)[-1][1].decode()
    assert status == 200
    assert str(grpc.StatusCode.NOT_FOUND.value[0]) in said
