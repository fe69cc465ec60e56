"""The form in JupyterLab: nested fields, outputs of all kinds, approvals; by keyboard, in words for everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lab import Lab, NotebookPage
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

MAKE = '''
import dataclasses, datetime, json, time
from typing import Literal
from nbruns import ToolOutputsForm, tool
from nbruns.objects import Run

def waiting(kind, *calls):
    action = {"type": kind, kind: {"tool_calls": list(calls)}}
    return Run({"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "status": "requires_action",
                "expires_at": int(time.time()) + 600, "required_action": action})

def call(name, arguments, id):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}

@dataclasses.dataclass
class Stop:
    """A stop on the way."""
    city: str
    nights: int = 1

@dataclasses.dataclass
class Price:
    amount: float
    currency: Literal["EUR", "NOK"]
    valid_until: datetime.date

@tool
def plan_trip(start: datetime.date, stops: list[Stop], by: Literal["train", "bus"] = "train",
              budget: float | None = None, notes: dict[str, str] | None = None) -> Price:
    """Plan a trip with stops, and say what it costs.

    Args:
        start: The day on which it begins.
        stops: Where to stay, in this order.
        by: How to travel.
        budget: At most this much, $ or € alike, if $ matters.
        notes: Anything else.
    """
    return Price(100.0 * len(stops), "EUR", start)
'''
FORM = """
arguments = {"start": "2026-12-01", "stops": [{"city": "Oslo"}, {"city": "Bergen", "nights": 3}]}
form = ToolOutputsForm(waiting("submit_tool_outputs", call("plan_trip", arguments, "call_1"),
                               call("ask_somebody", {"question": "costs it $5 or $10?"}, "call_2")),
                       tools=[plan_trip])
form
"""
APPROVAL = """
mcp = {"type": "mcp", "name": "delete_page", "server_label": "wiki", "arguments": '{"page": "Home"}'}
asked = ToolOutputsForm(waiting("submit_tool_approval", mcp | {"id": "call_1"}, mcp | {"id": "call_2"}))
asked
"""
HOSTILE = """
evil = "<img src=x onerror=window.ran=1><style>body{display:none}</style>"
maths = r"$\\href{javascript:window.ran=1}{x}$ \\(x\\) $$y$$"
properties = {evil: {"type": "string", "description": evil + maths}, maths: {"enum": [evil, maths], "default": maths},
              "o" + maths: {"properties": {evil: {"type": "integer", "title": evil}}},
              "u": {"anyOf": [{"type": "integer", "title": evil + maths}, {"type": "string"}]},
              "m": {"type": "object", "additionalProperties": {"pattern": evil}}}
@tool(name="ask", parameters={"type": "object", "properties": properties, "required": [evil]})
def ask(**arguments):
    return evil
given = {evil: maths, maths: evil, "o" + maths: {evil: 1}, "u": "x", "m": {evil: maths}, "unknown" + evil: maths}
form = ToolOutputsForm(waiting("submit_tool_outputs", call("ask", given, "call_1"), call(evil + maths, given, "call_2"),
                               call("ask", maths + evil, "call_3")), tools=[ask])
form
"""

OpenNotebook = Callable[..., NotebookPage]
#: Every control that has no name for those who can't see, or whose description is nowhere.
UNNAMED = """form => [...form.querySelectorAll("input, select, textarea, button")]
    .filter(e => e.offsetParent)
    .filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))
        || (e.getAttribute("aria-describedby") || "").split(" ").some(id => id && !document.getElementById(id)))
    .map(e => e.outerHTML)"""


def open_form(lab: Lab, notebook_page: OpenNotebook, name: str, source: str) -> tuple[NotebookPage, Locator]:
    """A notebook whose second cell shows the form, and whose third prints what would be submitted."""
    cells = [MAKE, source, "print(json.dumps(form.outputs if 'form' in globals() else asked.outputs))"]
    page = notebook_page(lab.write_notebook(name, cells))
    page.run_all()
    form = page.output(1).locator(".nbruns-form")
    form.wait_for()
    return page, form


def told(control: Locator) -> str:
    """What a screen reader says behind a control's name."""
    return str(
        control.evaluate(
            "e => document.getElementById(e.getAttribute('aria-describedby'))?.textContent ?? ''"
        )
    )


def test_nested_arguments_and_an_output_in_fields(lab: Lab, notebook_page: OpenNotebook) -> None:
    page, form = open_form(lab, notebook_page, "form.ipynb", FORM)
    trip, ask = form.locator(".nbruns-card").all()
    assert form.evaluate(UNNAMED) == []
    expect(trip).to_have_role("group")
    expect(trip).to_have_accessible_name("plan_trip")
    assert "The day on which it begins." in told(trip.get_by_label("start"))
    expect(trip.get_by_label("budget (optional)")).to_have_attribute("placeholder", "default: null")
    expect(trip.get_by_label("by (optional)")).to_have_value("default: train")
    assert trip.locator("mjx-container").count() == 0  # dollars are no mathematics
    assert "costs it $5 or $10?" in (ask.text_content() or "")
    expect(form.get_by_role("timer")).to_contain_text("expires in 9:")
    expect(form.get_by_role("status")).to_have_text("2 calls need output")
    page.page.set_viewport_size({"width": 1200, "height": 1700})
    page.screenshot("form-light", page.cell(1))
    assert form.bounding_box()["height"] < 260  # two cards and their footer
    expect(trip.get_by_label("start")).to_be_hidden()
    trip.get_by_text("plan_trip(start=").click()
    expect(trip.get_by_label("start")).to_be_visible()
    expect(trip.get_by_role("group", name="stops", exact=True)).to_be_visible()

    trip.get_by_role("button", name="Add to stops").click()
    third = trip.get_by_role("group", name="stops 3", exact=True)
    third.get_by_label("city").fill("Voss")
    third.get_by_label("nights (optional)").fill("many")
    trip.get_by_role("button", name="Remove stops 1").click()
    third = trip.get_by_role("group", name="stops 2", exact=True)  # by its place now
    trip.get_by_role("button", name="Run plan_trip").click()
    nights = third.get_by_label("nights (optional)")
    expect(nights).to_have_attribute("aria-invalid", "true")
    assert "Not a whole number." in told(nights)
    page.screenshot("form-wrong", page.cell(1))
    nights.fill("2")
    expect(nights).to_have_attribute("aria-invalid", "false")

    # The output by hand: nothing in it fits at first, and Submit leads to the first of what is wrong.
    amount = trip.get_by_label("amount")
    expect(amount).to_be_hidden()
    trip.get_by_role("button", name="Enter output").click()
    expect(amount).to_be_focused()
    amount.fill("a lot")
    ask.get_by_placeholder("Return value of ask_somebody").fill("ten")
    form.get_by_role("button", name="Submit").click()
    expect(amount).to_be_focused()
    amount.fill("250")
    trip.get_by_label("currency").select_option("NOK")
    expect(form.get_by_role("status")).to_have_text("1 call needs output")
    trip.get_by_label("valid_until").fill("2026-12-31")
    expect(form.get_by_role("status")).to_have_text("Ready to submit")
    page.run_cell(2)
    expect(page.output(2)).to_contain_text('{\\"amount\\": 250, \\"currency\\": \\"NOK\\"')
    expect(page.output(2)).to_contain_text('"call_2": "ten"')

    trip.get_by_role("button", name="Run plan_trip").click()
    expect(trip.get_by_placeholder("Return value of plan_trip")).to_have_value(
        '{"amount":200.0,"currency":"EUR","valid_until":"2026-12-01"}'
    )
    page.set_theme("JupyterLab Dark")
    page.page.locator("#jupyterlab-splash").wait_for(state="detached")
    page.screenshot("form-dark", page.cell(1))
    page.page.set_viewport_size({"width": 620, "height": 1900})
    page.screenshot("form-narrow", page.cell(1))
    wide = form.evaluate(  # the line of a call is cut off, until it is opened
        "e => [...e.querySelectorAll(':not(.nbruns-code)')].filter(x => x.scrollWidth > e.clientWidth).length"
    )
    assert wide == 0
    page.set_theme("JupyterLab Light")


def test_hostile_schemas_and_arguments_are_text(lab: Lab, notebook_page: OpenNotebook) -> None:
    page, form = open_form(lab, notebook_page, "hostile-form.ipynb", HOSTILE)
    form.get_by_role("button", name="Run ask").first.click()
    form.get_by_role("button", name="Submit").click()
    expect(form).to_contain_text("Not submitted")
    assert "onerror=window.ran" in (form.text_content() or "")
    assert form.locator("img, style, script, iframe, a").count() == 0
    assert form.locator("mjx-container").count() == 0
    assert page.page.evaluate("'ran' in window") is False
    assert form.evaluate(UNNAMED) == []
    page.screenshot("form-hostile", page.cell(1))


def test_a_file_is_an_output_and_one_that_is_none_is_refused(
    lab: Lab, notebook_page: OpenNotebook, tmp_path: Any
) -> None:
    page, form = open_form(lab, notebook_page, "file.ipynb", FORM)
    ask = form.locator(".nbruns-card").nth(1)
    ask.get_by_label("Output as").select_option("File content")
    chooser = ask.locator("input[type=file]")
    expect(chooser).to_have_accessible_name("Output")
    assert "up to 400,000 bytes" in told(chooser)
    files = {"big.txt": b"x" * 400_001, "photo.png": b"\x89PNG", "answer.txt": "Ærø, 12 €".encode()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name, words in [
        ("big.txt", "big.txt is too large: 400,001 bytes. The limit is 400,000 bytes."),
        ("photo.png", "photo.png is not UTF-8 text"),
    ]:
        chooser.set_input_files(tmp_path / name)
        expect(ask.get_by_role("alert").filter(has_text=words)).to_be_visible()
        expect(chooser).to_have_attribute("aria-invalid", "true")
    chooser.set_input_files(tmp_path / "answer.txt")
    expect(ask).to_contain_text("answer.txt: 13 bytes")
    expect(chooser).to_have_attribute("aria-invalid", "false")
    page.screenshot("form-file", page.cell(1))
    page.run_cell(2)
    expect(page.output(2)).to_contain_text(r"\u00c6r\u00f8, 12 \u20ac")


def test_approvals_by_keyboard_alone(lab: Lab, notebook_page: OpenNotebook) -> None:
    page, form = open_form(lab, notebook_page, "approval.ipynb", APPROVAL)
    assert form.evaluate(UNNAMED) == []
    keys = page.page.keyboard
    form.get_by_role("button", name="Submit").focus()
    keys.press("Enter")
    first, second = form.get_by_role("group", name="Allow this call?").all()
    approve, deny = first.get_by_role("button", name="Approve"), second.get_by_role("button", name="Deny")
    expect(approve).to_be_focused()  # where the first answer is missing
    keys.press("Space")  # which scrolls JupyterLab elsewhere
    expect(approve).to_have_attribute("aria-pressed", "true")
    keys.press("Tab")
    keys.press("Tab")  # the second call's line
    keys.press("Enter")
    expect(form.locator(".nbruns-given").nth(1)).to_be_visible()
    for _ in range(3):  # its arguments, which can be scrolled by keyboard, stand behind its buttons
        keys.press("Tab")
        if deny.evaluate("e => e === document.activeElement"):
            break
    assert deny.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    keys.press("Enter")
    expect(deny).to_have_attribute("aria-pressed", "true")
    expect(second.get_by_role("button", name="Approve")).to_have_attribute("aria-pressed", "false")
    page.screenshot("form-approval", page.cell(1))
    keys.press("Tab")
    keys.press("Tab")
    expect(form.get_by_role("button", name="Submit")).to_be_focused()
    keys.press("Enter")
    expect(form).to_contain_text("Submitted.")
    page.run_cell(2)
    expect(page.output(2)).to_contain_text('{"call_1": true, "call_2": false}')


SLOW = """
import pathlib

@tool
def measure(city: str) -> str:
    "Measure the temperature."
    while not pathlib.Path("measured").exists():
        time.sleep(0.02)
    return f"3 degrees in {city}"

taken = []
form = ToolOutputsForm(waiting("submit_tool_outputs", call("measure", {"city": "Oslo"}, "call_1")), tools=[measure],
                       on_submit=lambda outputs: taken.append(outputs))
form
"""


def test_submit_right_after_run_is_not_lost(lab: Lab, notebook_page: OpenNotebook) -> None:
    """In a fresh kernel, whose first function takes longest."""
    page = notebook_page(lab.write_notebook("right-after.ipynb", [MAKE, SLOW, "print(taken)"]))
    page.run_all()
    form = page.output(1).locator(".nbruns-form")
    form.get_by_role("button", name="Run measure").click()
    form.get_by_role("button", name="Submit").click()
    told = form.locator(".nbruns-footer .nbruns-told")
    expect(told).to_contain_text("Submits when the running functions finish")
    page.screenshot("form-submit-waits", page.cell(1))
    (lab.folder / "measured").touch()
    expect(told).not_to_contain_text("when the running functions", timeout=20_000)
    page.run_cell(2)
    expect(page.output(2)).to_have_text("[{'call_1': '3 degrees in Oslo'}]")


LONG = """
calls = [call("ask_somebody", {"number": n}, f"call_{n}") for n in range(9)]
tall = ToolOutputsForm(waiting("submit_tool_outputs", *calls), on_submit=lambda outputs: taken.append(outputs))
for card in tall.calls[1:]:
    card.output = "somebody"
# What is typed takes the kernel a while, so that the page holds back what comes after.
tall.calls[0]._answer.on_change(lambda: time.sleep(0.3))
taken = []
tall
"""


def test_the_footer_stays_in_sight_and_ctrl_enter_submits_all_that_was_typed(
    lab: Lab, notebook_page: OpenNotebook
) -> None:
    page = notebook_page(
        lab.write_notebook("keys.ipynb", [MAKE, LONG, "print([each['call_0'] for each in taken])"])
    )
    page.page.set_viewport_size({"width": 1000, "height": 500})
    page.run_all()
    form = page.output(1).locator(".nbruns-form")
    status = form.get_by_role("status")
    text = form.get_by_label("Output", exact=True).first
    text.scroll_into_view_if_needed()
    assert form.bounding_box()["height"] > 700
    expect(status).to_be_in_viewport()
    expect(status).to_have_text("1 call needs output")
    page.screenshot("form-sticky")
    text.focus()
    page.page.keyboard.type("Anna", delay=10)
    page.page.keyboard.press("Control+Enter")
    expect(form).to_contain_text("Submitted.")
    assert page.cell(1).locator(".jp-InputPrompt").inner_text() == "[2]:"  # the cell was not run again
    page.run_cell(2)
    expect(page.output(2)).to_have_text("['Anna']")
