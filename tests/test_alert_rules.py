"""The alert rules and the dashboard of the monitoring: they are valid, and use only metrics that exist."""

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
    shutil.which("promtool") is None, reason="promtool is missing (Debian: apt install prometheus)"
)


@promtool
@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", ROOT / "tests/rules/llm.test.yml")])
def test_rules(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def documented() -> set[str]:
    """The metrics in the table of docs/monitoring.md. test_metrics compares that table with the API's answer."""
    names = set(re.findall(r"^\| `(scheduler_\w+)`", MONITORING, re.MULTILINE))
    return names | {f"{name}_bucket" for name in names if name.endswith("_seconds")}


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_only_documented_metrics_are_used(path: Path) -> None:
    used = set(re.findall(r"\bscheduler_\w+", path.read_text()))
    assert len(used) > 10
    assert used <= documented()


def test_every_alert_is_documented() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert len(alerts) > 20
    assert not [alert for alert in alerts if f"`{alert}`" not in MONITORING]


def test_panels_do_not_overlap() -> None:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_bytes())["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} overlaps {taken[x, y]}"
                taken[x, y] = panel["title"]


@promtool
def test_the_expressions_of_the_panels_are_valid(tmp_path: Path) -> None:
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
