"""Images, sounds and series in the playground: attached, recorded, sent; labels and routing that models tell."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
from nodes import Node
from PIL import Image
from playwright.sync_api import FileChooser, FilePayload, Page, Route, TimeoutError, expect
from real_nodes import served
from visiting import Open, Visit

from hearing import FORMATS, sound, write_hearing_model
from series_texts import READ, REFUSED
from tiny_unified import write_unified_model

IMAGES = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
ASKED = "what is seen"
# Files get to a page by events that only people make; this makes them.
HAND_OVER = """([kind, files]) => {
  const data = new DataTransfer();
  for (const [name, type, text] of files) {
    data.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name, { type }));
  }
  const names = kind === "paste" ? ["paste"] : kind === "drop" ? ["dragover", "drop"] : [kind];
  const made = (name) => name === "paste"
    ? new ClipboardEvent(name, { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
  return names.map((name) => !document.querySelector("#prompt").dispatchEvent(made(name)));
}"""


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Of the unified architecture: it sees, tells labels, and routes its attention."""
    folder = tmp_path_factory.mktemp("unified") / "eye"
    write_unified_model(folder)
    with served(folder) as node:
        node.wait_ready()
        yield node


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("hearing") / "ear"
    write_hearing_model(folder)
    with served(folder) as node:
        node.wait_ready()
        yield node


@pytest.fixture(scope="module")
def following() -> Iterator[Node]:
    """A model that knows what series do, and sees and hears besides."""
    with served("ostro-nano") as node:
        node.wait_ready()
        yield node


def picture(seed: int = 0, kind: str = "PNG", width: int = 32, height: int = 24) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


def file(name: str, data: bytes, mime: str = "") -> FilePayload:
    return {"name": name, "mimeType": mime, "buffer": data}


def plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def attach(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#attach-files", list(files))


def attached(page: Page, *names: str) -> None:
    expect(page.locator("#attached figcaption")).to_have_text(list(names))


def left_out(page: Page, problems: Sequence[tuple[FilePayload, str]]) -> None:
    """Each file is refused in these words, and none is attached."""
    for wrong, words in problems:
        attach(page, wrong)
        expect(page.locator("#problem")).to_contain_text(words)
    expect(page.locator("#attached li")).to_have_count(0)


def brief(seen: Visit) -> Page:
    """A page that asks for a few tokens only."""
    page = seen.page
    expect(page.locator("#card")).to_contain_text("cpu")
    page.get_by_label("Max tokens").fill("8")
    page.get_by_label("Temperature", exact=True).fill("0")
    return page


def ask(seen: Visit, text: str, count: int = 1) -> None:
    seen.ask(text)
    seen.finished(count)
    expect(seen.page.locator(".failure")).to_have_count(0)


def parts(seen: Visit, index: int = -1) -> list[dict[str, Any]]:
    content = seen.bodies()[index]["messages"][0]["content"]
    assert isinstance(content, list)
    return content


def test_images_go_with_a_message_and_stay_with_it(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        first, second = picture(0), picture(1, "JPEG")
        with page.expect_file_chooser() as choosing:
            page.get_by_role("button", name="Attach images").click()
        choosing.value.set_files([file("bridge.png", first), file("river.png", second, "image/png")])
        attached(page, "bridge.png", "river.png")
        expect(page.locator("#prompt")).to_be_focused()
        ask(seen, ASKED)
        assert parts(seen) == [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{plain(first)}"}},
            # What a file is stands in its bytes, not in its name.
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{plain(second)}"}},
            {"type": "text", "text": ASKED},
        ]
        expect(page.locator("#attached")).to_be_hidden()
        assert [image.get_attribute("alt") for image in page.locator(".user img").all()] == ["bridge.png", "river.png"]
        assert page.evaluate("[...document.querySelectorAll('.user img')].every((one) => one.naturalWidth === 32)")

        page.get_by_role("button", name="Answer again").click()
        seen.finished()
        page.get_by_role("button", name="Edit message").click()
        expect(page.locator(".user img")).to_have_count(2)
        page.get_by_role("textbox", name="Edit message").fill("what else")
        page.get_by_role("button", name="Send again").click()
        seen.finished()
        assert parts(seen)[:2] == parts(seen, 0)[:2] == parts(seen, 1)[:2]
        assert parts(seen)[2]["text"] == "what else"
        expect(page.locator(".user img")).to_have_count(2)
        ask(seen, "and now", 2)
        assert parts(seen)[:2] == parts(seen, 0)[:2]


def test_an_export_holds_what_was_attached(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        attach(page, file("a.png", picture()))
        attached(page, "a.png")
        ask(seen, ASKED)
        attach(page, file("b.png", picture(1, width=150, height=100)))
        attached(page, "b.png")
        page.get_by_role("button", name="Export").click()
        expect(page.locator("#export-text")).to_contain_text("characters)")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Download").click()
        exported = json.loads(saved.value.path().read_text())
        assert exported["messages"][0]["content"] == parts(seen)
        assert exported["answers"][0]["labels"][0]["group"] == "photo"
        page.get_by_role("tab", name="curl").click()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Download").click()
        command = saved.value.path().read_text()
        assert "--data-binary @- <<'END_OF_BODY'" in command
        body = json.loads(command.split("<<'END_OF_BODY'\n")[1].removesuffix("\nEND_OF_BODY\n"))
        assert len(body["messages"]) == 3
        assert len(body["messages"][2]["content"]) == 1


@pytest.mark.parametrize("name", IMAGES)
def test_all_kinds_of_images(visit: Open, seeing: Node, name: str) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        attach(page, file("x", picture(0, IMAGES[name])))
        attached(page, "x")
        page.locator("#send").click()
        seen.finished()
        expect(page.locator(".failure")).to_have_count(0)
        (part,) = parts(seen)
        assert part["image_url"]["url"].startswith(f"data:image/{name};base64,")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_files_are_dropped_and_pasted(visit: Open, seeing: Node, way: str) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        files = [["one.png", "image/png", plain(picture())], ["two.gif", "image/gif", plain(picture(1, "GIF"))]]
        assert all(page.evaluate(HAND_OVER, [way, files])), "the browser does nothing else with them"
        attached(page, "one.png", "two.gif")
        expect(page.locator("#drop")).to_be_hidden()
        ask(seen, ASKED)
        assert len(parts(seen)) == 3


def test_where_files_may_be_dropped_is_shown(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        page.evaluate(HAND_OVER, ["dragover", [["one.png", "image/png", plain(picture())]]])
        expect(page.locator("#drop")).to_have_text("Attach images")
        page.evaluate(HAND_OVER, ["dragleave", []])
        expect(page.locator("#drop")).to_be_hidden()


def test_what_is_too_much_is_told_at_once(visit: Open, seeing: Node) -> None:
    problems = (
        (
            file("huge.png", picture() + bytes(11 << 20)),
            "huge.png is left out: it has 11 MB, and an image may have 10 MB",
        ),
        (file("notes.txt", b"once upon a time"), "notes.txt is left out: this model takes text and images (PNG, JPEG"),
        (file("bad.png", picture()[:12] + bytes(99)), "bad.png is left out: it is damaged"),
        (file("talk.wav", sound("wav")), "talk.wav is left out: this model takes text and images."),
    )
    with visit(seeing) as seen:
        page = brief(seen)
        left_out(page, problems)
        attach(page, *[file(f"{number}.png", picture()) for number in range(36)])
        expect(page.locator("#attached li")).to_have_count(32)
        expect(page.locator("#problem")).to_contain_text("holds at most 32 images, sounds and series.")
        expect(page.locator("#problem")).to_contain_text("So are 2 more.")
        page.get_by_role("button", name="Remove 3.png").click()
        expect(page.locator("#problem")).to_be_hidden()
        assert seen.bodies() == []


def test_a_request_never_gets_too_large(visit: Open, hearing: Node) -> None:
    with visit(hearing) as seen:
        page = brief(seen)
        for number in range(3):
            attach(page, file(f"{number}.wav", sound("wav") + bytes(5 << 20)))
        expect(page.locator("#problem")).to_contain_text("2.wav is left out: it has 5.0 MB, and all that is attached")
        attached(page, "0.wav", "1.wav")


def test_models_of_text_are_offered_nothing_else(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        page = seen.page
        expect(page.locator("#card")).to_contain_text("scripted")
        expect(page.locator("#attach")).to_be_hidden()
        expect(page.locator("#record")).to_be_hidden()
        assert all(page.evaluate(HAND_OVER, ["drop", [["one.png", "image/png", plain(picture())]]]))
        expect(page.locator("#problem")).to_have_text("one.png is left out: this model takes text only.")
        expect(page.locator("#attached")).to_be_hidden()
        seen.ask("hello")
        seen.finished()
        assert seen.bodies()[0]["messages"] == [{"role": "user", "content": "hello"}]
        expect(page.locator(".labels, .routing")).to_have_count(0)


def look_until(page: Page, state: Literal["visible", "hidden"]) -> None:
    """Have the page ask for the models until the button is so: a look that was under way already may know less."""
    for _ in range(40):
        page.evaluate("dispatchEvent(new Event('online'))")
        try:
            page.locator("#attach").wait_for(state=state, timeout=500)
        except TimeoutError:
            continue
        return
    raise AssertionError(f"the button is never {state}")


def test_a_model_that_cannot_see_is_not_sent_images(visit: Open, scripted: Node) -> None:
    def with_eyes(route: Route) -> None:
        listed = route.fetch().json()
        listed["data"][0]["capabilities"]["vision"] = True
        route.fulfill(json=listed)

    with visit(scripted) as seen:
        page = seen.page
        page.route("**/v1/models", with_eyes)
        look_until(page, "visible")
        attach(page, file("a.png", picture()))
        attached(page, "a.png")
        page.unroute("**/v1/models")
        look_until(page, "hidden")
        seen.ask("hello")
        expect(page.locator("#problem")).to_contain_text("This model takes text only: remove a.png, or choose another")
        assert page.locator("#prompt").input_value() == "hello"
        page.get_by_role("button", name="Remove a.png").click()
        page.keyboard.press("Enter")
        seen.finished()
        assert seen.bodies()[0]["messages"] == [{"role": "user", "content": "hello"}]


def test_attaching_needs_no_mouse_and_no_eyes(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        choosers: list[FileChooser] = []
        # Before all else: what is listened to is told to the browser without waiting for it.
        seen.page.on("filechooser", lambda chooser: choosers.append(chooser))
        page, press = brief(seen), seen.page.keyboard.press
        page.locator("#prompt").focus()
        press("Tab")
        expect(page.get_by_role("button", name="Attach images")).to_be_focused()
        press("Enter")
        for _ in range(100):
            if choosers:
                break
            page.wait_for_timeout(50)
        choosers[0].set_files([file("a.png", picture()), file("b.png", picture(1))])
        expect(page.locator("#said")).to_have_text("a.png, b.png attached. 2 attached in all.")
        expect(page.get_by_role("list", name="Attached").get_by_role("listitem")).to_have_count(2)
        press("Shift+Tab")
        expect(page.get_by_role("button", name="Remove b.png")).to_be_focused()
        press("Enter")
        expect(page.locator("#said")).to_have_text("b.png removed. 1 attached in all.")
        expect(page.get_by_role("button", name="Remove a.png")).to_be_focused()
        press("Enter")
        expect(page.locator("#said")).to_have_text("a.png removed. Nothing is attached.")
        expect(page.locator("#prompt")).to_be_focused()
        assert page.locator("#send").is_disabled()


@pytest.mark.parametrize("name", FORMATS)
def test_sounds_go_with_a_message(visit: Open, hearing: Node, name: str) -> None:
    with visit(hearing) as seen:
        page = brief(seen)
        data = sound(name)
        attach(page, file(f"talk.{name}", data))
        attached(page, f"talk.{name}")
        ask(seen, "what is said")
        assert parts(seen) == [
            {"type": "input_audio", "input_audio": {"data": plain(data), "format": name}},
            {"type": "text", "text": "what is said"},
        ]
        player = page.get_by_label(f"talk.{name}")
        page.wait_for_function("document.querySelector('.user audio').duration > 0.9")
        assert (player.get_attribute("src") or "").startswith("blob:")
        # A model that hears is not one that routes.
        expect(page.locator(".routing")).to_have_count(0)


RISING = [round(20 + 0.5 * step + 0.1 * (step % 3), 3) for step in range(80)]


def column(values: list[float]) -> bytes:
    return ("temperature\n" + "\n".join(map(str, values))).encode()


def test_series_go_with_a_message(visit: Open, following: Node, tmp_path: Path) -> None:
    with visit(following) as seen:
        page = brief(seen)
        expect(page.locator("#card")).to_contain_text("see images, hear sounds, follow series")
        expect(page.get_by_role("button", name="Attach images, sounds and series")).to_be_visible()
        attach(page, file("hall.csv", column(RISING), "text/csv"))
        attached(page, "hall.csv")
        expect(page.get_by_role("img", name="hall.csv, 80 values")).to_be_visible()
        ask(seen, "what does the series do")
        assert parts(seen) == [
            {"type": "input_series", "input_series": RISING},
            {"type": "text", "text": "what does the series do"},
        ]
        expect(page.locator(".prose")).to_have_text("rising")
        expect(page.get_by_role("table", name="series").get_by_role("row").first).to_contain_text("rising")
        # Drawn from the lower left to the upper right.
        box = page.locator(".user .series-line path").bounding_box()
        assert box is not None
        assert box["width"] > 100
        assert box["height"] > 40
        path = page.locator(".user .series-line path").get_attribute("d") or ""
        drawn = np.array([[float(value) for value in point.split()] for point in re.split("[ML]", path)[1:]])
        assert len(drawn) == len(RISING)
        assert drawn[0].tolist() == [0, 96]
        assert drawn[-1, 1] == drawn[:, 1].min()
        page.locator(".routing > summary").click()
        expect(page.locator(".routing-map")).to_have_count(6)
        assert json.loads(next(one.post_data or "" for one in seen.requests if one.url.endswith("/v1/infer")))[
            "inputs"
        ] == {"series": RISING, "text": "what does the series do"}
        page.screenshot(path=tmp_path / "series.png")


def test_series_and_images_are_asked_the_same_way_twice(visit: Open, following: Node) -> None:
    with visit(following) as seen:
        page = brief(seen)
        attach(page, file("a.png", picture()), file("hall.csv", column(RISING)))
        attached(page, "a.png", "hall.csv")
        ask(seen, "what is this")
        assert [part["type"] for part in parts(seen)] == ["input_series", "image_url", "text"]
        page.locator(".routing > summary").click()
        expect(page.locator(".routing-map")).to_have_count(6)
        (asked,) = [one.post_data for one in seen.requests if one.url.endswith("/v1/infer")]
        inputs = json.loads(asked or "")["inputs"]
        answers = [
            following.http.post("/v1/infer", json={"model": "ostro-nano", "inputs": inputs}).json(),
            following.http.post("/v1/chat/completions", json={**seen.bodies()[0], "stream": False}).json(),
        ]
        assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"]
        assert answers[0]["labels"] == answers[1]["labels"]


def test_two_series_have_no_routing_to_show(visit: Open, following: Node) -> None:
    with visit(following) as seen:
        page = brief(seen)
        attach(page, file("a.csv", b"1 2 3 4"), file("b.csv", b"4 3 2 1"))
        attached(page, "a.csv", "b.csv")
        ask(seen, "what does the series do")
        page.locator(".routing > summary").click()
        expect(page.locator(".routing")).to_contain_text("Routing is shown for messages with one series at most.")


def test_files_of_numbers_are_read_as_the_command_line_reads_them(visit: Open, following: Node) -> None:
    read = "async (text) => (await import(new URL('page/series.js', document.baseURI))).readSeries(text)"
    with visit(following) as seen:
        for name, (text, values) in READ.items():
            assert seen.page.evaluate(read, text) == values, name
        for name, text in REFUSED.items():
            told = seen.page.evaluate(f"async (text) => ({read})(text).catch((error) => error.constructor.name)", text)
            assert told == "SeriesProblem", name


def test_what_is_no_series_is_told_at_once(visit: Open, following: Node) -> None:
    problems = (
        (file("table.csv", b"time,value\n1,2\n3,4"), "table.csv is left out as a series: its line 2 has 2 numbers"),
        (
            file("notes.txt", b"once upon a time"),
            'notes.txt is left out as a series: "once" in its line 1 is no number.',
        ),
        (file("x.bin", bytes(20)), "x.bin is left out: this model takes text, images (PNG"),
        (file("long.csv", b"1\n" * (3 << 19)), "long.csv is left out: it has 3.0 MB, and a series may have 2.0"),
    )
    with visit(following) as seen:
        page = brief(seen)
        left_out(page, problems)
        attach(
            page,
            file("flat.csv", b"5\n5\n5"),
            file("one.csv", b"5"),
            file("spike.csv", b"0\n" * 5000 + b"9\n" + b"0\n" * 999),
        )
        attached(page, "flat.csv", "one.csv", "spike.csv")
        spike = page.locator(".series-line").nth(2).locator("path").get_attribute("d") or ""
        assert spike.count("L") < 400
        assert " 0.0" in spike, "what is thinned out keeps its spike"


def recorded(part: dict[str, Any]) -> tuple[np.ndarray, int]:
    assert part["input_audio"]["format"] == "wav"
    data = base64.b64decode(part["input_audio"]["data"])
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
    samples, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    return samples, rate


def test_a_sound_is_recorded(visit: Open, hearing: Node) -> None:
    with visit(hearing, permissions=["microphone"]) as seen:
        page = brief(seen)
        page.get_by_role("button", name="Record a sound").click()
        clock = page.get_by_role("timer")
        expect(clock).to_have_text("0:02 / 1:00")
        expect(page.locator("#record")).to_be_hidden()
        assert page.locator("#send").is_disabled()
        page.get_by_role("button", name="Stop", exact=True).click()
        attached(page, "Recording 1.wav")
        expect(page.locator("#said")).to_contain_text("Recording 1.wav attached.")
        expect(page.locator("#recording")).to_be_hidden()
        expect(page.locator("#prompt")).to_be_focused()
        page.get_by_label("Message", exact=True).press("Enter")
        seen.finished()
        expect(page.locator(".failure")).to_have_count(0)
        samples, rate = recorded(parts(seen)[0])
        assert rate == 16_000
        assert samples.shape[1] == 1
        assert 1.5 < len(samples) / rate < 6
        # Chromium's pretended microphone beeps.
        assert np.abs(samples).max() > 0.01
        assert np.abs(samples).max() <= 1


def test_a_recording_is_thrown_away(visit: Open, hearing: Node) -> None:
    with visit(hearing, permissions=["microphone"]) as seen:
        page = brief(seen)
        for key in ("Escape", "Tab"):
            page.get_by_role("button", name="Record a sound").click()
            expect(page.get_by_role("button", name="Stop", exact=True)).to_be_focused()
            page.keyboard.press(key)
            if key == "Tab":
                expect(page.get_by_role("button", name="Cancel")).to_be_focused()
                page.keyboard.press("Enter")
            expect(page.locator("#recording")).to_be_hidden()
            expect(page.locator("#said")).to_have_text("The recording is thrown away.")
        expect(page.locator("#attached li")).to_have_count(0)


def test_a_recording_ends_by_itself(visit: Open, hearing: Node) -> None:
    def shorter(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("MOST_S = 60", "MOST_S = 1"))

    with visit(hearing, permissions=["microphone"]) as seen:
        seen.page.route("**/page/recording.js", shorter)
        seen.page.reload()
        page = brief(seen)
        page.get_by_role("button", name="Record a sound").click()
        attached(page, "Recording 1.wav")
        page.locator("#send").click()
        seen.finished()
        samples, rate = recorded(parts(seen)[0])
        assert len(samples) == rate


def test_a_microphone_that_is_refused_is_told(visit: Open, hearing: Node) -> None:
    with visit(hearing) as seen:
        page = brief(seen)
        page.get_by_role("button", name="Record a sound").click()
        expect(page.locator("#problem")).to_contain_text("did not let this page use the microphone. Allow it")
        expect(page.get_by_role("button", name="Record a sound")).to_be_enabled()
        expect(page.locator("#recording")).to_be_hidden()


def test_labels_stand_under_the_answer(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        attach(page, file("a.png", picture()))
        attached(page, "a.png")
        ask(seen, ASKED)
        told = seeing.http.post("/v1/chat/completions", json={**seen.bodies()[0], "stream": False}).json()["labels"]
        table = page.get_by_role("table", name="photo")
        rows = [
            [row.get_by_role("rowheader").inner_text(), row.locator(".number").inner_text()]
            for row in table.get_by_role("row").all()
        ]
        assert rows == [[one["label"], f"{one['score'] * 100:.1f}%"] for one in told]
        widths = [bar.bounding_box() for bar in table.locator(".bar-fill").all()]
        track = table.locator(".bar-track").first.bounding_box()
        assert track is not None
        for one, width in zip(told, widths, strict=True):
            assert width is not None
            assert width["width"] == pytest.approx(track["width"] * one["score"], abs=1.5)


def test_many_labels_in_groups(visit: Open, scripted: Node) -> None:
    labels = [{"label": f"intent {at}", "score": 0.5**at, "group": "intent"} for at in range(1, 14)]
    labels += [{"label": "<b>angry</b>", "score": 0.0004, "group": "mood"}]
    chunk = {"choices": [{"index": 0, "delta": {"content": "Well."}, "finish_reason": "stop"}], "labels": labels}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    with visit(scripted) as seen:
        page = seen.page
        page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
        ask(seen, "hello")
        table = page.get_by_role("table", name="intent")
        expect(table.get_by_role("row")).to_have_count(5)
        page.get_by_role("button", name="All 13").click()
        expect(table.get_by_role("row")).to_have_count(13)
        expect(page.get_by_role("table", name="mood")).to_contain_text("<b>angry</b>")
        expect(page.get_by_role("table", name="mood")).to_contain_text("<0.1%")


def inferences(seen: Visit) -> list[dict[str, Any]]:
    return [json.loads(one.post_data or "") for one in seen.requests if one.url.endswith("/v1/infer")]


def test_how_attention_was_routed(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        ask(seen, "hello")
        attach(page, file("a.png", picture()))
        attached(page, "a.png")
        ask(seen, ASKED, 2)
        assert inferences(seen) == [], "it is asked for only where somebody looks"
        summary = page.locator(".routing > summary").last
        summary.click()
        expect(page.locator(".routing-map")).to_have_count(3)
        (body,) = inferences(seen)
        assert body == {
            "model": "eye",
            "inputs": {"text": ASKED, "image": f"data:image/png;base64,{plain(picture())}"},
            "max_tokens": 1,
            "return_routing": True,
        }
        routing = seeing.http.post("/v1/infer", json=body).json()["routing"]
        cells = page.locator(".routing-map rect")
        values = np.array(routing["layers"]).ravel()
        assert cells.count() == len(values) == 12
        for cell, value in zip(cells.all(), values, strict=True):
            assert cell.get_attribute("class") in (("more", "more chosen") if value > 1 else ("less", "less chosen"))
        detail = page.locator(".routing-detail")
        cells.nth(1).hover()
        expect(detail).to_have_text(re.compile(rf"Layer 1: text looks at image, × {float(f'{values[1]:.3g}'):g}: "))
        cells.nth(1).click()
        page.keyboard.press("ArrowDown")
        expect(detail).to_contain_text("Layer 1: image looks at image")
        page.keyboard.press("End")
        expect(detail).to_contain_text("Layer 3: image looks at image")
        expect(cells.nth(11)).to_be_focused()
        page.get_by_text("As a table").click()
        table = page.get_by_role("region", name="Factors on attention").get_by_role("table")
        assert table.get_by_role("columnheader").all_inner_texts() == ["Layer", "Who looks", "at text", "at image"]
        shown = [float(text.removeprefix("× ")) for text in table.locator(".number").all_inner_texts()]
        assert shown == pytest.approx(list(values), rel=0.01)
        summary.click()
        summary.click()
        assert len(inferences(seen)) == 1


def test_routing_of_several_images(visit: Open, seeing: Node) -> None:
    with visit(seeing) as seen:
        page = brief(seen)
        attach(page, file("a.png", picture()), file("b.png", picture(1)))
        attached(page, "a.png", "b.png")
        ask(seen, ASKED)
        page.locator(".routing > summary").click()
        expect(page.locator(".routing-map")).to_have_count(3)
        assert inferences(seen)[0]["inputs"]["text"].count("<image>data:image/png;base64,") == 2
        count = seeing.http.post("/v1/infer", json=inferences(seen)[0]).json()["usage"]["prompt_tokens"]
        expect(page.locator(".figures")).to_contain_text(re.compile(rf"prompt\s*{count}\b"))


def test_routing_that_fails_is_told_and_asked_again(visit: Open, seeing: Node) -> None:
    with visit(seeing, refusals=True) as seen:
        page = brief(seen)
        ask(seen, ASKED)
        error = {"error": {"message": "The node is full."}}
        page.route("**/v1/infer", lambda route: route.fulfill(status=429, json=error))
        page.locator(".routing > summary").click()
        expect(page.locator(".routing")).to_contain_text("The node is full.")
        page.unroute("**/v1/infer")
        page.locator(".routing > summary").click()
        page.locator(".routing > summary").click()
        expect(page.locator(".routing-map")).to_have_count(3)
        expect(page.locator(".routing-map rect")).to_have_count(3)


def test_nothing_moves_while_an_answer_streams(visit: Open, scripted: Node) -> None:
    watch = """async () => {
      const seen = new Set();
      for (let frame = 0; frame < 40; frame += 1) {
        await new Promise(requestAnimationFrame);
        const top = (name) => document.querySelector(name).getBoundingClientRect().top;
        const start = top("#log");
        seen.add([top(".user") - start, top(".who") - start, top(".composer"), top(".bar")].map(Math.round).join());
      }
      return [...seen];
    }"""
    with visit(scripted) as seen:
        seen.ask("count")
        expect(seen.page.locator(".prose")).to_contain_text("one two three one")
        assert len(seen.page.evaluate(watch)) == 1
        seen.page.keyboard.press("Escape")
        seen.finished()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_media_fit_any_window(visit: Open, seeing: Node, tmp_path: Path, width: int, scheme: str) -> None:
    with visit(seeing, viewport={"width": width, "height": 740}, color_scheme=scheme) as seen:
        page = seen.page
        expect(page.locator("#attach")).to_be_visible()
        wide, tall = picture(0, width=2000, height=2), picture(1, width=2, height=2000)
        attach(page, file("a-name-without-any-place-to-break" * 3 + ".png", wide), file("b.png", tall))
        expect(page.locator("#attached li")).to_have_count(2)
        page.locator("#prompt").fill(ASKED)
        page.screenshot(path=tmp_path / "composer.png")
        for name in ("#prompt", "#send", "#attached"):
            box = page.locator(name).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 740
        page.get_by_role("button", name="Remove b.png").click()
        page.locator("#attached button").click()
        attach(page, file("c.png", picture()))
        attached(page, "c.png")
        body = '"max_tokens":8,'
        page.route(
            "**/v1/chat/completions",
            lambda route: route.continue_(post_data=(route.request.post_data or "").replace("{", "{" + body, 1)),
        )
        ask(seen, ASKED)
        page.locator(".routing > summary").click()
        expect(page.locator(".routing-map")).to_have_count(3)
        page.get_by_text("As a table").click()
        page.screenshot(path=tmp_path / "routing.png")
        assert page.evaluate(
            "document.querySelector('#scroll').scrollWidth <= document.querySelector('#scroll').clientWidth"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_policy_allows_what_is_attached_and_no_more(visit: Open, seeing: Node) -> None:
    policy = dict(part.split(" ", 1) for part in seeing.http.get("/").headers["content-security-policy"].split("; "))
    assert policy["img-src"] == "'self' data:"
    assert policy["media-src"] == "blob:"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == policy["script-src"] == "'self'"
