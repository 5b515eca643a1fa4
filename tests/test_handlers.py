"""The worked example of docs/handlers.md, by itself and through real workers."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Fleet, account

from llm_scheduler.jobs.handler import BatchContext, Context, Reject

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLE = DOCS / "examples" / "invoice_totals.py"
BATCH_EXAMPLE = DOCS / "examples" / "invoice_rates.py"
CONTEXT = Context("id", "a.json", "high", "high", "default", 1, 1.0)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_blocks(language: str) -> list[str]:
    """The blocks of code on the page: the first is of a handler of single documents, the second of batches."""
    page = (DOCS / "handlers.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    return blocks


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load(EXAMPLE)


def test_the_example_adds_up_exactly(example: ModuleType) -> None:
    document = {"lines": [{"quantity": 1, "price": 0.1}, {"quantity": 2, "price": "0.10"}], "total": 0.3}
    assert example.handle(document, CONTEXT) == {"total": "0.30", "lines": 2, "source": "a.json"}


@pytest.mark.parametrize("document", [[], {}, {"lines": 3}, {"lines": [], "total": 1}])
def test_the_example_refuses_what_is_no_invoice(example: ModuleType, document: object) -> None:
    with pytest.raises(Reject):
        example.handle(document, CONTEXT)


def test_the_example_in_a_real_fleet_as_the_page_says(fleet: Fleet) -> None:
    configuration = json.loads(page_blocks("json")[0])
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
    names: dict[str, object] = {}
    exec(page_blocks("python")[0], names)
    handle = names["handle"]
    assert callable(handle)
    assert handle({"lines": [1, 2]}, CONTEXT) == {"lines": 2}
    with pytest.raises(Reject):
        handle({}, CONTEXT)


def test_the_page_shows_a_handler_of_batches_that_runs() -> None:
    names: dict[str, object] = {}
    exec(page_blocks("python")[1], names)
    handle_batch = names["handle_batch"]
    assert callable(handle_batch)
    first, second = handle_batch([{"lines": [1, 2]}, {}], BatchContext("high", "default", (CONTEXT, CONTEXT)))
    assert first == {"lines": 2}
    assert isinstance(second, Reject)


def test_the_example_of_batches_in_a_real_fleet_as_the_page_says(fleet: Fleet) -> None:
    shutil.copy(BATCH_EXAMPLE, fleet.folder)
    fleet.configure(
        **json.loads(page_blocks("json")[1]), processing={"mode": "batch", "batch_size": 4, "retry_attempts": 1}
    )
    contents = {
        "twd": b'{"amount": "1000", "currency": "TWD"}',
        "usd": b'{"amount": 7.5, "currency": "USD"}',
        "none": b'{"amount": 1}',
        "other": b'{"amount": 1, "currency": "XXX"}',
    }
    for name, content in contents.items():
        fleet.drop(f"{name}.json", content)
    fleet.start("ingest", "collector", "scheduler", "medium")
    fleet.wait_finished(4, deadline=30)
    account(fleet, contents)
    results = {result["source"]: (result["result"], result["attempts"]) for result in fleet.results()}
    assert results == {"twd.json": ({"usd": "31.000"}, 1), "usd.json": ({"usd": "7.5"}, 1)}
    reports = {report["source"]: (report["code"], report["message"], report["attempts"]) for report in fleet.reports()}
    assert reports == {
        "none.json": ("handler_rejected", "an invoice has a currency", 1),
        "other.json": ("handler_failed", "LookupError: no rate for XXX yet", 2),
    }
