"""The alarms and the dashboard that come with the monitoring: they hold, and ask for metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = ROOT / "ansible" / "roles" / "prometheus" / "files"
RULES = FILES / "llm.rules.yml"
DASHBOARD = FILES / "grafana-dashboard.json"
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (Debian: apt install prometheus)"
)


@promtool
@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", ROOT / "tests/rules/llm.test.yml")])
def test_rules(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def documented() -> set[str]:
    """The metrics in the table of docs/monitoring.md, which test_metrics compares with what the API answers."""
    names = set(re.findall(r"^\| `(scheduler_\w+)`", MONITORING, re.MULTILINE))
    return names | {f"{name}_bucket" for name in names if name.endswith("_seconds")}


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_they_ask_for_metrics_that_there_are(path: Path) -> None:
    asked = set(re.findall(r"\bscheduler_\w+", path.read_text()))
    assert len(asked) > 10
    assert asked <= documented()


def test_every_alarm_is_explained() -> None:
    alarms = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert len(alarms) > 20
    assert not [alarm for alarm in alarms if f"`{alarm}`" not in MONITORING]


def test_the_panels_lie_beside_each_other() -> None:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_bytes())["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


@promtool
def test_the_expressions_of_the_panels_are_some(tmp_path: Path) -> None:
    expressions = re.findall(r'"expr": (".*")', DASHBOARD.read_text())
    rules = [
        {"record": f"panel:{number}", "expr": json.loads(text).replace("$__rate_interval", "1m")}
        for number, text in enumerate(expressions)
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
