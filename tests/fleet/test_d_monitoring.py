"""Prometheus sees everything, and an alarm gets to people: to a webhook, and by mail."""

import email
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from fleet import Fleet, wait_until
from hosts import NETWORK

HERE = f"{NETWORK}.1"  # this machine, as the hosts see it
TARGETS = {"prometheus": 1, "llm-scheduler": 1, "llm-api": 2, "node": 6, "redis": 2}


def prometheus(fleet: Fleet, path: str) -> Any:
    answer = json.loads(
        fleet["mon1"].tell(f"curl --globoff --silent --fail --show-error 'http://127.0.0.1:9090/api/v1/{path}'")
    )
    assert answer["status"] == "success"
    return answer["data"]


def value(fleet: Fleet, expression: str) -> list[float]:
    return [float(each["value"][1]) for each in prometheus(fleet, f"query?query={expression}")["result"]]


def test_everything_is_asked(fleet: Fleet) -> None:
    def not_up() -> list[str]:
        targets = prometheus(fleet, "targets")["activeTargets"]
        jobs = Counter(each["labels"]["job"] for each in targets)
        if jobs != TARGETS:  # it has only just started
            return [f"it asks {dict(jobs)}"]
        return [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["health"] != "up"]

    wait_until(lambda: not not_up(), "every target up", 90, lambda: "\n".join(not_up()))
    expected = {  # once each has been asked since the last test
        "scheduler_redis_up": [1],
        "sum(scheduler_workers)": [6],
        "sum(redis_up)": [2],
        "sum(redis_connected_slaves)": [1],
        "count(count+by+(instance)+(scheduler_build_info{job=%22llm-api%22}))": [2],
    }
    for expression, wanted in expected.items():
        wait_until(
            lambda expression=expression, wanted=wanted: value(fleet, expression) == wanted,  # type: ignore[misc]
            f"{expression} == {wanted}",
            explain=lambda expression=expression: str(value(fleet, expression)),  # type: ignore[misc]
        )
    assert value(fleet, "count(scheduler_queue_size{job!=%22llm-scheduler%22})") == [], "nothing is counted twice"


def test_the_rules_hold(fleet: Fleet) -> None:
    fleet["mon1"].tell("promtool check config /etc/prometheus/prometheus.yml")
    groups = prometheus(fleet, "rules")["groups"]
    assert {group["name"] for group in groups} == {"llm-scheduler", "llm-redis", "llm-hosts"}
    rules = [rule for group in groups for rule in group["rules"]]
    wait_until(
        lambda: all(
            rule["health"] == "ok" for group in prometheus(fleet, "rules")["groups"] for rule in group["rules"]
        ),
        "all rules evaluated",
    )
    assert len(rules) > 20
    fleet["mon1"].tell("amtool check-config /etc/prometheus/alertmanager.yml")


def test_who_else_asks_gets_nothing(fleet: Fleet) -> None:
    """Exporters, Prometheus and Alertmanager are for the monitoring host alone, and its key for Prometheus."""
    mon1 = fleet["mon1"].address
    for target in (
        f"{mon1}:9090",
        f"{mon1}:9093",
        f"{fleet['redis1'].address}:9121",
        f"{fleet['redis1'].address}:9100",
    ):
        assert fleet["worker1"].ask(f"curl --silent --max-time 3 http://{target}/metrics").returncode != 0, target
    for path in ("/etc/prometheus/llm-api-key", "/etc/prometheus/alertmanager.yml"):
        assert fleet["mon1"].ask(f"runuser -u nobody -- cat {path}").returncode != 0, path
    assert fleet["redis1"].ask("runuser -u nobody -- cat /etc/redis/llm-exporter.json").returncode != 0
    secrets = [fleet.secret("api_key_readonly"), fleet.secret("redis_exporter_password")]
    for host in ("mon1", "redis1"):
        shown = fleet[host].tell("ps axww -o args; journalctl --no-pager -n 2000")
        assert not [secret for secret in secrets if secret in shown]


class Webhook:
    """Whatever is posted to it."""

    def __init__(self) -> None:
        got: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.got = got
        self.server = ThreadingHTTPServer((HERE, 0), Handler)
        self.url = f"http://{HERE}:{self.server.server_port}/alarm"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Mailbox:
    """Whatever is mailed to it."""

    def __init__(self) -> None:
        self.got: list[Message] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.got.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture
def told(fleet: Fleet) -> Iterator[tuple[Webhook, Mailbox]]:
    webhook, mailbox = Webhook(), Mailbox()
    with socket.create_server((HERE, 0)) as free:
        port = free.getsockname()[1]
    smtp = Controller(mailbox, hostname=HERE, port=port)
    smtp.start()
    variables = {
        "llm_alertmanager_webhook_url": webhook.url,
        "llm_alertmanager_email_to": "operator@example.com",
        "llm_alertmanager_smtp": f"{HERE}:{port}",
        "llm_alertmanager_smtp_tls": False,
        "llm_alertmanager_group_wait": "1s",
        "llm_alertmanager_group_interval": "5s",
        "llm_prometheus_interval": "5s",
    }
    fleet.play("deploy", "--limit", "mon1", **variables).ok()
    yield webhook, mailbox
    fleet.play("deploy", "--limit", "mon1").ok()
    smtp.stop()
    webhook.server.shutdown()
    webhook.server.server_close()


def test_an_alarm_gets_to_people(fleet: Fleet, told: tuple[Webhook, Mailbox]) -> None:
    webhook, mailbox = told
    host = fleet["worker2"]
    host.tell("cp -p /etc/llm/scheduler_config.json /root/kept.json")
    host.tell('sed -i \'s/"queue"/"queu"/\' /etc/llm/scheduler_config.json')
    host.ask("systemctl restart llm-worker@low")  # fails for good: status 78

    def alarms(status: str) -> list[dict[str, Any]]:
        return [
            alarm
            for message in webhook.got
            for alarm in message["alerts"]
            if alarm["status"] == status and alarm["labels"]["alertname"] == "LLMUnitFailed"
        ]

    def mails(name: str) -> list[Message]:
        return [mail for mail in mailbox.got if name in mail["Subject"]]

    try:
        took = wait_until(lambda: alarms("firing"), "the alarm at the webhook", 120)
        took += wait_until(lambda: mails("LLMUnitFailed"), "the alarm in the mail")
        print(f"a unit that failed: told after {took:.0f} s (30 s of them are the rule's)")
        alarm = alarms("firing")[0]
        assert (alarm["labels"]["host"], alarm["labels"]["name"]) == ("worker2", "llm-worker@low.service")
        assert "systemctl status llm-worker@low.service" in alarm["annotations"]["description"]
        assert mails("LLMUnitFailed")[0]["To"] == "operator@example.com"
        firing = value(fleet, "count(ALERTS{alertstate=%22firing%22,alertname!=%22LLMUnitFailed%22})")
        assert firing == [], "and no other is raised"
    finally:
        host.tell("cp -p /root/kept.json /etc/llm/scheduler_config.json; rm /root/kept.json")
        host.tell("systemctl restart llm-worker@low")
    wait_until(lambda: alarms("resolved"), "the word that it is over", 120)


def test_after_all_a_second_run_changes_nothing(fleet: Fleet) -> None:
    assert fleet.play("deploy").changes() == []
