"""The report in a real browser."""

import json
from pathlib import Path

import pytest
from attrs import evolve
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from novita_async._purchase.machine import Attempt, State
from novita_async.cli import _report, _report_pieces
from novita_async.cli._report import About, write_report, write_report_of
from tests.browser.conftest import resize
from tests.helpers.report_rows import BEGIN, BROKEN, WICKED, batch, journal_of, png, row

COUNT = 5000
ALL = range(40)


class Page:
    """What a reader sees and does."""

    def __init__(self, browser, path, *, open_it=True):
        self.browser = browser
        if open_it:
            browser.get(path.as_uri())
        self.until(lambda: self.count)

    def until(self, condition):
        return WebDriverWait(self.browser, 20, poll_frequency=0.02).until(lambda _: condition())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    @property
    def count(self):
        return self.one("output").text

    @property
    def listed(self):
        """Numbers of the requests that are drawn, in their order."""
        return self.run("return [...document.querySelectorAll('.open')].map(open => Number(open.dataset.no))")

    def open(self, no):
        self.run(f"document.querySelector('[data-no=\"{no}\"]').click()")

    def press(self, *keys):
        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def state(self, name):
        self.run(f"document.querySelector('[name=state][value=\"{name}\"]').click()")

    def pick(self, name, value):
        Select(self.one(f"[name={name}]")).select_by_visible_text(value)

    @property
    def focused(self):
        return self.run("return document.activeElement.dataset.no")

    @property
    def opened(self):
        return self.run("return document.querySelector('dialog').open")

    def loaded(self, selector):
        """Whether all these pictures are there, and are pictures."""
        return self.run(
            "const all = [...document.querySelectorAll(arguments[0])];"
            "return all.length > 0 && all.every(img => img.complete && img.naturalWidth > 0)", selector
        )  # fmt: skip


@pytest.fixture
def page(browser, report):
    return Page(browser, report)


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser")]


def requested(browser):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {params["request"]["url"] for params in sent}


def test_it_opens_without_a_complaint_and_asks_nobody_but_the_disk(page):
    page.until(lambda: page.loaded(".card img"))
    assert complaints(page.browser) == []
    urls = requested(page.browser)
    assert any(url.endswith("report.html") for url in urls)
    assert {url.partition(":")[0] for url in urls} <= {"file", "data"}


def test_its_policy_lets_no_other_script_run_and_no_request_go(page):
    page.run(
        "const other = document.createElement('script'); other.text = 'window.ran = true';"
        "document.body.append(other)"
    )
    asked = page.browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('https://example.invalid/').then(() => done('went'), () => done('refused'))"
    )
    assert page.run("return window.ran") is None
    assert asked == "refused"
    assert any("Content Security Policy" in message for message in complaints(page.browser))


def test_of_5000_requests_only_those_in_sight_exist(page):
    assert page.count == "5,000 requests"
    assert page.run("return document.querySelectorAll('.card').length") < 80
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.until(lambda: COUNT in page.listed)
    assert 1 not in page.listed
    assert page.listed == sorted(page.listed)
    assert page.run("return document.querySelectorAll('*').length") < 4000


def test_every_item_says_which_of_how_many_it_is(page):
    places = page.run(
        "return [...document.querySelectorAll('.card')].map(li => [li.ariaPosInSet, li.ariaSetSize])"
    )
    assert places[:2] == [["1", "5000"], ["2", "5000"]]


def test_text_is_searched_word_by_word(page):
    page.one("[name=text]").send_keys("LAGOON 0.3")
    assert page.count == "166 of 5,000 requests"
    page.one("[name=text]").send_keys(" nothing-like-this")
    assert page.count == "0 of 5,000 requests"
    assert page.one(".none").is_displayed()
    page.one("[name=clear]").click()
    assert page.count == "5,000 requests"
    assert not page.one(".none").is_displayed()


def test_slash_goes_to_the_search(page):
    page.press("/")
    assert page.run("return document.activeElement.name") == "text"


def test_states_endpoints_and_models_are_filtered(page):
    page.state("failed")
    assert (page.count, page.listed) == ("2 of 5,000 requests", [3, 4])
    page.state("")
    page.pick("endpoint", "/v3/async/txt2img")
    assert page.listed == [7]
    page.pick("endpoint", "all")
    page.pick("model", "other.safetensors")
    assert page.count == "2,496 of 5,000 requests"


def test_a_reason_shows_the_requests_that_it_ended(page):
    page.run("document.querySelector('[data-text=\"ContentRejected ILLEGAL_PROMPT\"]').click()")
    assert page.listed == [3]


def test_it_sorts_either_way_and_what_is_unknown_comes_last(page):
    page.pick("sort", "seconds queued")
    queued = [(number - 1) % 7 for number in page.listed[:8]]
    assert queued == sorted(queued)
    page.one("[name=turn]").click()
    assert {(number - 1) % 7 for number in page.listed[:8]} == {6}
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.until(lambda: page.listed[-4:] == [3, 4, 5, 6])


def address(page):
    return page.run("return decodeURIComponent(location.hash)")


def test_the_address_says_what_is_listed_and_how(page):
    assert address(page) == ""
    page.state("failed")
    page.pick("sort", "seconds queued")
    page.one("[name=turn]").click()
    page.one("[name=view]").click()
    page.one("[name=text]").send_keys("hill")
    assert address(page) == "#text=hill&state=failed&sort=seconds+queued&turned=1&compact=1"
    page.one("[name=clear]").click()
    assert address(page) == "#sort=seconds+queued&turned=1&compact=1"


def test_an_address_that_was_passed_on_lists_the_same(browser, report):
    browser.get(f"{report.as_uri()}#text=hill&state=failed&sort=seed&turned=1&compact=1")
    page = Page(browser, report, open_it=False)
    assert (page.count, page.listed) == ("2 of 5,000 requests", [3, 4])
    assert page.one("[name=view]").get_attribute("aria-pressed") == "true"
    assert page.one("[name=turn]").get_attribute("aria-pressed") == "true"
    assert "↓" in page.one("[name=turn]").text
    page.run("location.hash = 'model=other.safetensors'")
    page.until(lambda: page.count == "2,496 of 5,000 requests")


def test_an_address_that_makes_no_sense_lists_everything(browser, report):
    browser.get(f"{report.as_uri()}#state=odd&sort=nothing&model=none&%%%")
    page = Page(browser, report, open_it=False)
    assert page.count == "5,000 requests"
    assert complaints(browser) == []


def test_files_that_are_not_saved_have_a_sign_of_their_own(browser, tmp_path):
    write_report([row(0, State.SAVED, paths=(Path("a.png"),)), row(1, State.SUCCEEDED)], tmp_path / "r.html")
    page = Page(browser, tmp_path / "r.html")
    badges = [each.text for each in page.all(".card .badge")]
    assert badges == ["✓ saved", "↓ not saved"]
    assert page.one("fieldset").text.split("\n") == ["State", "all2", "saved1", "not saved1"]


CUT = """
const cut = [];
for (const each of document.querySelectorAll(`${arguments[0]} *`)) {
  if (!each.checkVisibility() || each.closest(".told, svg, select, script, .prompt")) continue;
  const style = getComputedStyle(each);
  if (style.overflowX === "visible" && style.overflowY === "visible") continue;
  if (each.scrollWidth > each.clientWidth + 1 || each.scrollHeight > each.clientHeight + 2)
    cut.push([each.className, each.textContent.slice(0, 60)]);
}
return cut;
"""


def test_nothing_but_long_prompts_is_cut_on_a_small_screen(page):
    resize(page.browser, 400, 800)
    page.until(lambda: page.run("return document.documentElement.scrollWidth") <= 400)
    assert page.run(CUT, "body") == []
    for no in (1, 2, 3, 5, 6):
        page.open(no)
        assert page.run(CUT, "dialog") == []
        page.press(Keys.ESCAPE)


def test_the_keyboard_opens_steps_and_closes(page):
    page.one("[name=view]").send_keys(Keys.TAB)  # the states
    page.press(Keys.TAB)  # the list is one stop
    assert page.focused == "1"
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.focused == "2"
    page.press(Keys.ENTER)
    assert page.opened
    assert "#2" in page.one("#about").text
    page.press(Keys.ARROW_RIGHT)
    assert "#3" in page.one("#about").text
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.opened and page.focused == "3")
    page.press(Keys.END)
    page.until(lambda: page.focused == str(COUNT))
    page.press(Keys.HOME)
    page.until(lambda: page.focused == "1")


def test_the_focus_is_seen(page):
    page.press("/", Keys.TAB)
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_click_beside_the_dialog_or_on_close_closes_it(page):
    page.open(1)
    page.one("[data-close]").click()
    assert not page.opened
    page.open(1)
    ActionChains(page.browser).move_by_offset(3, 3).click().perform()
    page.until(lambda: not page.opened)


def test_pictures_come_when_they_are_in_sight(page):
    page.until(lambda: page.loaded(".card img"))
    assert page.run("return [...document.querySelectorAll('.card img')].every(img => img.loading === 'lazy')")
    page.run("scrollTo(0, 100000)")
    page.until(lambda: 1 not in page.listed and page.loaded(".card img"))


def test_results_are_compared_with_their_input(page):
    page.open(1)
    page.until(lambda: page.loaded(".stage img"))
    assert [each.text for each in page.all(".strip small")] == [
        "result 1",
        "result 2",
        "result 3",
        "result 4",
        "input",
    ]
    page.run(
        "const slider = document.querySelector('.compare input'); slider.value = 40;"
        "slider.dispatchEvent(new Event('input'))"
    )
    assert (
        page.run("return getComputedStyle(document.querySelector('.before')).clipPath")
        == "inset(0px 60% 0px 0px)"
    )
    page.all(".strip button")[2].click()
    assert page.run("return document.querySelector('.after').src").endswith("/outputs/2.png")


def test_what_cannot_be_shown_is_said(page):
    cards = {no: page.one(f'[data-no="{no}"]').text for no in (2, 3, 5, 6, 8)}
    assert "not kept: it was given as bytes" in cards[2]
    assert "400 ILLEGAL_PROMPT" in cards[3]
    assert "perhaps paid for" in cards[5]
    assert "not seen finished" in cards[6]
    assert "missing.png is no longer where it was" in cards[8]


def test_uncertain_and_failed_requests_say_what_to_do(page):
    page.open(5)
    assert "novita-async retry" in page.one(".advice").text
    assert "pays twice" in page.one(".advice").text
    page.press(Keys.ARROW_RIGHT)
    assert "novita-async resume" in page.one(".advice").text
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert "Another try can succeed" in page.one(".advice").text
    page.press(Keys.ARROW_LEFT)
    assert "change it first" in page.one(".advice").text


def test_attempts_are_told(page):
    page.open(1)
    assert "2 attempts" in page.one(".facts").text
    assert "k1: not bought" in page.one(".facts").text
    assert "k1: task task-0" in page.one(".facts").text


def test_what_looks_like_markup_is_text(page):
    shown = " ".join(WICKED.split())
    assert " ".join(page.one('[data-no="2"] q').text.split()) == shown
    page.open(2)
    assert " ".join(page.one(".facts blockquote").text.split()) == shown
    page.run("document.querySelector('.facts details').open = true")
    assert "onerror" in page.one(".facts pre").text
    assert page.browser.title == page.one("h1").text == "A <i>batch</i>"
    assert page.run("return document.querySelectorAll('[onerror], [src=x], h1 i').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_the_light_and_in_the_dark(page, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
    faint = page.run(CONTRAST, 4.5)
    assert faint == []
    lightness = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(lightness) < 60) is (scheme == "dark")


CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = rgb(getComputedStyle(each).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const faint = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element.closest("svg, .told, script, option")) continue;
  const opacity = Number(getComputedStyle(element).opacity), back = behind(element);
  const colour = rgb(getComputedStyle(element).color).slice(0, 3);
  const front = colour.map((v, i) => v * opacity + back[i] * (1 - opacity));
  const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < arguments[0]) faint.push([element.className, element.textContent.slice(0, 30), ratio]);
}
return faint;
"""


@pytest.mark.parametrize("width", [320, 400])
def test_a_small_screen_needs_no_sideways_scrolling(page, width):
    resize(page.browser, width, 800)
    for view in ("pictures", "compact"):
        page.until(lambda: page.run("return document.documentElement.scrollWidth") <= width)
        assert page.run("return document.querySelector('.card').getBoundingClientRect().right") <= width, view
        page.run("document.querySelector('[name=view]').click()")
    page.open(1)
    assert page.run("const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth") == 0


def test_the_compact_list_shows_more_at_once(page):
    page.until(lambda: page.listed)
    line = "return document.querySelector('.card').offsetHeight"
    tall = page.run(line)
    page.one("[name=view]").click()
    assert page.run(line) < tall / 2
    assert page.one("[name=view]").get_attribute("aria-pressed") == "true"


def test_everything_that_can_be_used_has_a_name(page):
    page.open(1)
    tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    page.press(Keys.ESCAPE)
    tree += page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {
        "button",
        "searchbox",
        "combobox",
        "radio",
        "slider",
        "link",
        "dialog",
        "list",
        "image",
        "status",
    }
    used = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    seen = {node["role"]["value"] for node in used}
    assert {"button", "searchbox", "combobox", "radio", "slider", "dialog", "image", "status"} <= seen
    unnamed = [node for node in used if node["role"]["value"] not in ("list", "status")]
    assert [node["role"]["value"] for node in unnamed if not node["name"]["value"]] == []


def test_a_change_of_the_count_is_announced(page):
    status = page.one("output")
    assert status.get_attribute("aria-live") == "polite"
    assert status.get_attribute("role") == "status"


def test_paper_gets_the_listed_requests(page):
    page.one("[name=text]").send_keys("fjord 0.4")
    listed = int(page.count.split()[0])
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert len(page.listed) == listed > 100
    page.run("dispatchEvent(new Event('afterprint'))")
    assert len(page.listed) < 80


def test_a_page_with_thumbnails_needs_no_files(browser, embedded):
    page = Page(browser, embedded)
    page.until(lambda: page.loaded(".card img"))
    page.open(1)
    page.until(lambda: page.loaded(".stage .after") and page.loaded(".strip img"))
    assert page.run("return document.querySelector('.after').src").startswith("data:image/webp")


# --- Large batches ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The same batch of 40 twice: all rows in the page, and most of them beside it."""
    folder = tmp_path_factory.mktemp("large")
    rows = batch(folder, 40)
    rows[20] = row(20, State.SAVED, request=rows[20].entry.request, paths=(folder / "20.png",))
    rows[20].entry = evolve(rows[20].entry, tag="sku-20\x1b", metadata='{"shop": {"no": 7}}')
    rows[20].tag = rows[20].entry.tag
    rows[21] = row(21, State.FAILED, error=evolve(BROKEN, text="task t failed: no way\u202e"))
    rows[22] = row(22, State.PLANNED)
    rows[23] = row(23, State.SUBMITTED, earlier=(Attempt("k1", BEGIN - 65, BEGIN - 64),))
    for each in rows:  # results lie beside the page of a batch
        each.paths = tuple(folder / path.name for path in each.paths)
        for path in each.paths:
            path.write_bytes(png())
    journal_of(folder / "batch.db", rows)
    with pytest.MonkeyPatch.context() as patch:
        write_report_of(folder / "batch.db", folder / "all.html", About())
        patch.setattr(_report, "WHOLE", 8)
        patch.setattr(_report_pieces, "PIECE", 8)
        patch.setattr(_report_pieces, "_LOOKED_AFTER", {State.FAILED: 1})
        write_report_of(folder / "batch.db", folder / "some.html", About())
    return folder


def test_a_large_page_lists_some_rows_and_loads_the_others_when_asked(browser, pages):
    page = Page(browser, pages / "some.html")
    assert page.count == "9 of 40 requests"
    assert "31 requests are not loaded" in page.one(".beside").text
    assert not any("report-rows" in url for url in requested(browser))
    page.one("[name=more]").click()
    page.until(lambda: page.count == "17 of 40 requests")
    page.one("[name=every]").click()
    page.until(lambda: page.count == "40 requests")
    assert not page.one(".beside").is_displayed()
    page.one("[name=text]").send_keys("sku-20")
    assert (page.count, page.listed) == ("1 of 40 requests", [21])
    assert complaints(browser) == []


TOLD = """
    const dialog = document.querySelector("dialog");
    const all = (selector) => [...dialog.querySelectorAll(selector)];
    return Object.fromEntries([...document.querySelectorAll(".open")].map((open) => {
      open.click();
      const words = all("h2, .facts, .strip").map((part) => part.textContent);
      const pictures = all("img").map((img) => img.getAttribute("src"));
      dialog.close();
      return [open.dataset.no, [open.innerText, ...words, ...pictures]];
    }));
"""


def test_a_row_that_was_loaded_is_told_like_a_row_of_the_page(browser, pages):
    resize(browser, 1280, 9000)
    told = []
    for name in ("all.html", "some.html"):
        page = Page(browser, pages / name)
        page.run(
            "if (!document.querySelector('.beside').hidden) document.querySelector('[name=every]').click()"
        )
        page.until(lambda page=page: page.count == "40 requests" and len(page.listed) == len(ALL))
        told.append(page.run(TOLD))
    in_page, loaded = told
    for no, words in in_page.items():
        assert loaded[no] == words, no


def test_a_piece_that_is_gone_is_said(browser, pages):
    page = Page(browser, pages / "some.html")
    last = max((pages / "report-rows").iterdir())
    hidden = last.rename(last.with_suffix(".hidden"))
    page.one("[name=every]").click()
    page.until(lambda: f"report-rows/{last.name} is not beside this page" in page.one(".beside").text)
    hidden.rename(last)
    page.one("[name=more]").click()
    page.until(lambda: page.count == "40 requests")
