"""The worked example of docs/handlers.md, by itself and through real workers."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Fleet, account

from jobs.handler import Context, Reject

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLE = DOCS / "examples" / "invoice_totals.py"
CONTEXT = Context("id", "a.json", "high", "high", "default", 1, 1.0)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("invoice_totals", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_adds_up_exactly(example: ModuleType) -> None:
    document = {"lines": [{"quantity": 1, "price": 0.1}, {"quantity": 2, "price": "0.10"}], "total": 0.3}
    assert example.handle(document, CONTEXT) == {"total": "0.30", "lines": 2, "source": "a.json"}


@pytest.mark.parametrize("document", [[], {}, {"lines": 3}, {"lines": [], "total": 1}])
def test_the_example_refuses_what_is_no_invoice(example: ModuleType, document: object) -> None:
    with pytest.raises(Reject):
        example.handle(document, CONTEXT)


def test_the_example_in_a_real_fleet_as_the_page_says(fleet: Fleet) -> None:
    page = (DOCS / "handlers.md").read_text()
    [configuration] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    shutil.copy(EXAMPLE, fleet.folder)
    fleet.configure(**configuration)
    fleet.start("ingest", "collector", "scheduler", "medium")
    contents = {
        "good": b'{"lines": [{"quantity": 3, "price": "9.99"}], "total": 29.97}',
        "wrong": b'{"lines": [{"quantity": 3, "price": "9.99"}], "total": 30}',
        "broken": b'{"lines": [{"price": "9.99"}]}',
    }
    for name, content in contents.items():
        fleet.drop(f"{name}.json", content)
    fleet.wait_finished(3, deadline=30)
    account(fleet, contents)
    [result] = fleet.results()
    assert result["result"] == {"total": "29.97", "lines": 1, "source": "good.json"}
    reports = {report["source"]: (report["code"], report["message"]) for report in fleet.reports()}
    assert reports == {
        "wrong.json": ("handler_rejected", "the lines add up to 29.97, but the invoice says 30"),
        "broken.json": ("handler_failed", "KeyError: 'quantity'"),
    }


def test_the_page_shows_code_that_runs() -> None:
    page = (DOCS / "handlers.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    handle = names["handle"]
    assert callable(handle)
    assert handle({"lines": [1, 2]}, CONTEXT) == {"lines": 2}
    with pytest.raises(Reject):
        handle({}, CONTEXT)
