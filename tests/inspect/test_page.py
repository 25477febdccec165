"""The HTML of a diff: self-contained, well-formed, and alive in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_networks import NETWORKS, build
from torch import nn

import fxquant
from fxquant.inspect.layered_layout import lay_out

_VOID = ("meta", "link", "input", "br")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the residual network, coloured by error."""
    model, batches, mapping = build("Residual")
    quantized = fxquant.quantize(model, batches, qconfig_mapping=mapping, backend="onednn", progress=False)
    diff = fxquant.graph_diff(model, quantized)
    path = tmp_path_factory.mktemp("page") / "diff.html"
    path.write_text(diff.to_html(fxquant.compare(model, quantized, batches)))
    return path


class _Checker(HTMLParser):
    """Collects open tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}>"


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_page_is_whole(name: str) -> None:
    """Tags are balanced, every node of the graph has its line, nothing is loaded."""
    model, batches, mapping = build(name)
    quantized = fxquant.quantize(model, batches, qconfig_mapping=mapping, backend="onednn", progress=False)
    diff = fxquant.graph_diff(model, quantized)
    text = diff.to_html()
    checker = _Checker()
    checker.feed(text)
    assert checker.open == [] and checker.addresses == ["data:,"]
    assert "default-src 'none'" in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    lines = {int(number) for number in re.findall(r'id="change-(\d+)"', text)}
    assert lines == set(range(len(diff.changes)))
    assert {int(number) for number in re.findall(r'data-change="(\d+)"', text)} <= lines
    assert text.count('class="node ') == sum(len(change.after) for change in diff.changes)
    assert "by error" not in text


def test_names_are_escaped() -> None:
    """What a user calls things is text, never markup."""
    diff = fxquant.inspect.graph_diff.GraphDiff((), "<b>", "<script>", model='"><img src=x>')
    text = diff.to_html()
    assert "<img" not in text and "<b>" not in text and "&lt;script&gt;" in text


def test_layouts_keep_nodes_apart_and_edges_downwards() -> None:
    names = [f"n{index}" for index in range(40)]
    edges = [(f"n{index}", f"n{index + step}") for index in range(40) for step in (1, 3, 7) if index + step < 40]
    widths = {name: 60.0 + 7 * (index % 5) for index, name in enumerate(names)}
    layout = lay_out(names, edges, widths, 70.0)
    for source, target in edges:
        assert layout.places[source][1] < layout.places[target][1]
    for one in names:
        for other in names:
            if one < other and layout.layers[one] == layout.layers[other]:
                apart = abs(layout.places[one][0] - layout.places[other][0])
                assert apart >= (widths[one] + widths[other]) / 2
    assert lay_out([], [], {}, 70.0).width == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; tests skip where it, or what drives it, is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(params=[(1400, 900), (390, 844)], ids=["desktop", "phone"])
def opened(request: pytest.FixtureRequest, browser: Any, page: Path) -> Iterator[Any]:
    """The page in the browser; anything it logs, throws or asks for fails the test."""
    width, height = request.param
    view = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("request", lambda asked: complaints.append(asked.url) if asked.url != page.as_uri() else None)
    view.goto(page.as_uri())
    yield view
    assert complaints == []
    view.close()


def _visible(view: Any, query: str) -> int:
    return sum(item.is_visible() for item in view.query_selector_all(query))


def test_it_fits_the_screen(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("document.querySelector('#canvas').scrollWidth <= innerWidth")


def test_search_finds_and_fades(opened: Any) -> None:
    everything = _visible(opened, ".change > summary")
    opened.fill("#search", "layer2 bn1")
    assert 0 < _visible(opened, ".change > summary") < everything
    assert opened.inner_text("#found").endswith(f"of {opened.locator('.change').count()}")
    assert 0 < opened.locator(".node.hit").count() < opened.locator(".node").count()
    opened.fill("#search", "no such thing")
    assert _visible(opened, ".change > summary") == 0 and opened.is_visible("#nothing")
    opened.fill("#search", "")
    assert _visible(opened, ".change > summary") == everything and not opened.is_visible("#nothing")


def test_outcomes_filter(opened: Any) -> None:
    opened.click('#outcomes [data-outcome="float"]')
    shown = {item.get_attribute("data-outcome") for item in opened.query_selector_all(".change:not(.gone)")}
    assert shown == {"float"}
    opened.click('#outcomes [data-outcome="float"]')
    assert opened.locator(".change.gone").count() == 0


def test_modules_fold(opened: Any) -> None:
    inside = ".module .change > summary"
    assert _visible(opened, inside) > 0
    opened.click("#fold")
    assert _visible(opened, inside) == 0
    opened.click("#unfold")
    assert _visible(opened, inside) > 0
    opened.locator(".module > summary").first.click()
    assert not opened.locator(".module").first.evaluate("item => item.open")


def test_graph_and_list_point_at_each_other(opened: Any) -> None:
    opened.click("#fold")
    opened.locator(".node", has_text="conv1 + bn1 + relu").first.click()
    assert opened.locator(".change.chosen").count() == 1
    opened.wait_for_selector(".change.chosen > summary", state="visible")
    assert "scale=" in opened.inner_text(".change.chosen dl")
    opened.locator(".change > summary", has_text="fc").last.click()
    assert opened.get_attribute(".node.chosen", "data-change") == opened.get_attribute(".change.chosen", "id")[7:]


def test_colours_by_error(opened: Any) -> None:
    node = opened.locator(".node.outcome-int8 rect").first
    before = node.evaluate("item => getComputedStyle(item).fill")
    opened.select_option("#colour", "error")
    assert opened.is_visible("#levels") and not opened.is_visible("#outcomes")
    assert node.evaluate("item => getComputedStyle(item).fill") != before


def test_the_graph_zooms(opened: Any) -> None:
    width = float(opened.get_attribute("#graph", "width"))
    opened.click('[data-zoom="1.25"]')
    assert float(opened.get_attribute("#graph", "width")) == pytest.approx(1.25 * width)
    opened.click('[data-zoom="fit"]')
    assert float(opened.get_attribute("#graph", "width")) == pytest.approx(width)


def test_long_paths_fit_a_phone(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inner = nn.ModuleDict({"with_a_rather_long_name_of_its_own": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())})

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder_of_the_first_kind = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder_of_the_first_kind["with_a_rather_long_name_of_its_own"](x)

    model, x = Deep().eval(), torch.randn(2, 3, 8, 8)
    path = tmp_path / "page.html"
    lowered = fxquant.quantize(model, [x], progress=False)
    path.write_text(fxquant.graph_diff(model, lowered).to_html(), encoding="utf-8")
    view = browser.new_page(viewport={"width": 390, "height": 844})
    view.goto(path.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.close()
