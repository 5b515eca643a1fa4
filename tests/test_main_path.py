"""Drop a file, get its result: through a real server, real workers and real file events."""

import json

from conftest import Fleet, account, files, wait_until

ODD = b'{ "b": 1,\n "a": 123456789012345678901234567890, "f": 1.10, "e": 1E2, "t": "\\u00e9\xe4\xb8\xad" }\n'


def test_a_document_comes_out_as_it_went_in(fleet: Fleet) -> None:
    fleet.start()
    fleet.drop("sub/odd one.json", ODD)
    fleet.wait_finished(1)
    text = (fleet.processed / "sub" / "odd one.json").read_bytes()
    assert b'"document":' + ODD.strip() + b"," in text, "the document's own text is in the result, untouched"
    result = json.loads(text)
    assert list(result)[:3] == ["id", "source", "status"]
    assert result["source"] == "sub/odd one.json"
    assert (result["status"], result["quality"], result["repairs"]) == ("done", "valid", [])
    assert result["attempts"] == 1
    assert result["route"]["queue"] == result["priority"] == "medium"
    assert result["route"]["handler"] == "default"
    assert result["route"]["reasons"]
    assert result["result"]["shape"] == "object"
    assert result["received_at"].endswith("Z")
    assert result["received_at"] <= result["completed_at"]
    assert (fleet.archive / "sub" / "odd one.json").read_bytes() == ODD
    account(fleet, {"odd": ODD})
    wait_until(lambda: not files(fleet.temp), "an empty temp folder")


def test_a_broken_document_keeps_its_bytes_and_says_where(fleet: Fleet) -> None:
    fleet.start()
    broken = b'{"a": 1,\n "b": tru}'
    fleet.drop("x/bad.json", broken)
    fleet.wait_finished(1)
    assert (fleet.errors / "x" / "bad.json").read_bytes() == broken
    report = json.loads((fleet.errors / "x" / "bad.json.error.json").read_bytes())
    assert report["code"] == "invalid_json"
    assert (report["line"], report["column"], report["offset"]) == (2, 7, 15)
    assert report["source"] == "x/bad.json"
    assert report["attempts"] == 1
    assert report["failed_at"] >= report["received_at"]
    account(fleet, {"bad": broken})


def test_a_second_arrival_of_a_name_overwrites_nothing(fleet: Fleet) -> None:
    fleet.start()
    first, second = b'{"n": 1}', b'{"n": 2}'
    fleet.drop("same.json", first)
    fleet.wait_finished(1)
    fleet.drop("same.json", second)
    fleet.wait_finished(2)
    account(fleet, {"first": first, "second": second})
    results = {result["document"]["n"]: result for result in fleet.results()}
    assert json.loads((fleet.processed / "same.json").read_bytes())["document"] == {"n": 1}
    other = fleet.processed / f"same.{results[2]['id']}.json"
    assert json.loads(other.read_bytes())["document"] == {"n": 2}
    assert (fleet.archive / other.name).read_bytes() == second


def test_every_daemon_stops_on_sigterm_with_status_0(fleet: Fleet) -> None:
    fleet.start()
    fleet.drop("a.json", b"[1]")
    fleet.wait_finished(1)
    wait_until(fleet.all_ready, "every daemon to have begun")
    assert set(fleet.stop().values()) == {0}


def test_a_newline_in_a_name_makes_no_line_in_the_log(fleet: Fleet) -> None:
    fleet.start()
    fleet.drop("a\n2026-01-01 INFO collector: Task completed: forged.json", b"[1]")
    fleet.wait_finished(1)
    told = wait_until(lambda: [line for line in fleet.log("collector").splitlines() if "forged" in line], "a line")
    assert len(told) == 1
    assert "Task completed: a\\x0a2026" in told[0]


def test_the_log_tells_each_document_and_no_content(fleet: Fleet) -> None:
    fleet.start()
    fleet.drop("good.json", b'{"content": "swordfish-7291"}')
    fleet.drop("bad.json", b'{"content": "swordfish-7291"')
    fleet.wait_finished(2)
    fleet.stop()
    log = fleet.log("collector")
    assert "Task completed: good.json" in log
    assert "Task failed: bad.json" in log
    assert "Processing time:" in log
    assert not any("swordfish" in fleet.log(name) for name in fleet.MODULES)


def test_batches_are_flushed_by_size_and_by_time(fleet: Fleet) -> None:
    fleet.configure(processing={"mode": "batch", "batch_size": 5, "batch_timeout": 2})
    fleet.start()
    contents = {f"d{number}": b'{"n": %d}' % number for number in range(7)}
    for name, content in contents.items():
        fleet.drop(f"{name}.json", content)
    fleet.wait_finished(5, deadline=10)
    fleet.wait_finished(7, deadline=10)
    account(fleet, contents)
    assert {result["rq_job_id"] for result in fleet.results()} != {""}
