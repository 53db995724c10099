"""The page in a real browser: ask, go on asking, an error, a gateway that is killed."""

import asyncio
import base64
import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from playwright.async_api import Page, Response, Route, async_playwright, expect

from glm4v.local.preflight import free_port
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub
from tests.e2e.asking import draw
from tests.e2e.fleet import Fleet
from tests.needs import find_program

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
    pytest.mark.needs_browser,
]
WORKER = "slow_lm_worker"
TOKENS = 40  # of 40 ms each
LONG_MS = 60_000
PORT = free_port("127.0.0.1")
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const target = document.getElementById("drop");
  target.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
}"""
# A file that has changed since it was chosen cannot be read.
BREAK_READING = """() => {
  window.read = FileReader.prototype.readAsDataURL;
  FileReader.prototype.readAsDataURL = function () { this.onerror(); };
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(
    checkpoint_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """A system whose gateway serves HTTP; answers take a second."""
    environment = {"GLM4V_HTTP_LISTEN": f"127.0.0.1:{PORT}"}
    model = tmp_path_factory.mktemp("greedy") / "micro-glm4v"
    shutil.copytree(checkpoint_dir("micro-glm4v"), model)
    # Every fourth sampled answer would end before its time, while a test looks elsewhere.
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "do_sample": False}))
    async with Fleet(model, environment=environment) as fleet:
        await fleet.start("gateway", "vision_worker", WORKER)
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(fleet: Fleet) -> AsyncIterator[Page]:
    """The page, opened; anything that the browser complains about fails its test."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_program("chromium"), args=["--no-sandbox"]
        )
        page = await browser.new_page()
        page.set_default_timeout(LONG_MS)
        expect.set_options(timeout=LONG_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda line: (
                complaints.append(line.text) if "Content Security Policy" in line.text else None
            ),
        )
        await page.goto(f"http://127.0.0.1:{PORT}/")
        await page.get_by_text("Options").click()
        await page.get_by_label("Longest answer").fill(str(TOKENS))
        yield page
        await browser.close()
    assert complaints == []


async def drop(page: Page, data: bytes, name: str = "image.png", kind: str = "image/png") -> None:
    await page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


async def ask(page: Page, question: str) -> None:
    """With the keyboard alone."""
    await page.get_by_label("Question").fill(question)
    await page.keyboard.press("Enter")


async def whole_answer(fleet: Fleet, request_id: str) -> str:
    """What a client of the gRPC service gets of the same request."""
    async with grpc.aio.insecure_channel(fleet.target()) as channel:
        call = InferenceServiceStub(channel).Attach(
            api.AttachRequest(request_id=request_id), timeout=60
        )
        return "".join([r.event.delta.text + r.event.finished.text async for r in call])


async def test_ask_about_a_dropped_image_and_go_on_asking(fleet: Fleet, page: Page) -> None:
    requests: list[str] = []

    def note(response: Response) -> None:
        if response.url.endswith("/v1/chat/completions"):
            requests.append(response.headers["x-request-id"])

    await drop(page, draw("dropped"))
    await expect(page.get_by_alt_text("Your image: image.png")).to_be_visible()
    page.on("response", note)
    await ask(page, "what is it?")
    answers = page.locator("#turns .assistant p")
    await expect(answers.first).not_to_be_empty()
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()  # it streams
    await expect(page.locator("#numbers")).to_contain_text("Time to first token")
    await expect(page.locator("#numbers")).to_contain_text("Image encoded in")
    await expect(page.locator("#numbers")).to_contain_text("tokens/s")
    await ask(page, "and why?")
    await expect(answers).to_have_count(2)
    await expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    page.remove_listener("response", note)
    shown = [await answers.nth(number).text_content() for number in range(2)]
    assert shown == [await whole_answer(fleet, request_id) for request_id in requests]


async def test_the_workers_are_shown(page: Page) -> None:
    rows = page.locator("#workers tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("serving")


async def test_options_that_were_opened_stay_open_when_the_model_is_known(page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    other = await browser.new_page()
    may_answer = asyncio.Event()

    async def answer_late(route: Route) -> None:
        await may_answer.wait()
        await route.continue_()

    await other.route("**/v1/models", answer_late)
    await other.goto(page.url)
    await other.get_by_text("Options").click()
    await expect(other.get_by_label("Longest answer")).to_be_visible()
    may_answer.set()
    await expect(other.locator("#model")).to_have_text("micro-glm4v")
    await expect(other.get_by_label("Longest answer")).to_be_visible()
    await other.close()


async def test_an_error_is_shown_and_the_page_goes_on(page: Page) -> None:
    await drop(page, b"no image at all", "broken.png")
    await ask(page, "what is it?")
    await expect(page.get_by_role("alert")).to_contain_text("image")
    await expect(page.locator("#turns li")).to_have_count(0)
    await page.get_by_role("button", name="Remove the image").click()
    await expect(page.get_by_role("alert")).to_be_hidden()
    await ask(page, "anything?")
    await expect(page.locator("#numbers")).to_contain_text("tokens/s")


async def test_a_file_that_is_no_image_or_cannot_be_read_is_said_to_be(page: Page) -> None:
    await drop(page, b"hello", "notes.txt", "text/plain")
    await expect(page.get_by_role("alert")).to_contain_text("notes.txt is not an image")
    await drop(page, draw("dropped"))
    await page.evaluate(BREAK_READING)
    await ask(page, "what is it?")
    await expect(page.get_by_role("alert")).to_contain_text("choose it again")
    await expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    await page.evaluate("() => { FileReader.prototype.readAsDataURL = window.read; }")
    await page.get_by_role("button", name="Remove the image").click()


async def test_what_was_stopped_stays_a_part_of_the_conversation(page: Page) -> None:
    await page.get_by_label("Longest answer").fill(str(10 * TOKENS))
    await ask(page, "anything?")
    answers = page.locator("#turns .assistant p")
    await expect(answers.first).not_to_be_empty()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    await page.get_by_label("Longest answer").fill(str(TOKENS))
    async with page.expect_request("**/v1/chat/completions") as sent:
        await ask(page, "and then?")
    messages = json.loads((await sent.value).post_data or "")["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == await answers.first.text_content()
    await expect(page.get_by_role("button", name="Ask")).to_be_enabled()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_answer_goes_on_after_its_gateway_has_ended(
    fleet: Fleet, page: Page, number: signal.Signals
) -> None:
    await page.get_by_role("button", name="New conversation").click()
    async with page.expect_response("**/v1/chat/completions") as started:
        await ask(page, "what happens?")
    request_id = (await started.value).headers["x-request-id"]
    answer = page.locator("#turns .assistant p")
    await expect(answer).not_to_be_empty()
    fleet.signal("gateway", number)
    await fleet.ended("gateway")
    await expect(page.get_by_role("status")).to_contain_text("Reconnecting")
    await fleet.start("gateway")
    await expect(page.locator("#numbers")).to_contain_text("tokens/s")
    await expect(page.get_by_role("alert")).to_be_hidden()
    assert await answer.text_content() == await whole_answer(fleet, request_id)
