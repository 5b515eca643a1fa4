"""Prometheus scrapes every target, and alerts reach a webhook and a mailbox."""

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

HERE = f"{NETWORK}.1"  # the address of this machine for the hosts
TARGETS = {"prometheus": 1, "llm-scheduler": 1, "llm-api": 2, "node": 6, "redis": 2}


def prometheus(fleet: Fleet, path: str) -> Any:
    answer = json.loads(
        fleet["mon1"].run(f"curl --globoff --silent --fail --show-error 'http://127.0.0.1:9090/api/v1/{path}'")
    )
    assert answer["status"] == "success"
    return answer["data"]


def value(fleet: Fleet, expression: str) -> list[float]:
    return [float(each["value"][1]) for each in prometheus(fleet, f"query?query={expression}")["result"]]


def test_every_target_is_scraped(fleet: Fleet) -> None:
    def not_up() -> list[str]:
        targets = prometheus(fleet, "targets")["activeTargets"]
        jobs = Counter(each["labels"]["job"] for each in targets)
        if jobs != TARGETS:  # Prometheus has just started
            return [f"it scrapes {dict(jobs)}"]
        return [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["health"] != "up"]

    wait_until(lambda: not not_up(), "every target up", 90, lambda: "\n".join(not_up()))
    expected = {  # after each target was scraped since the last test
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


def test_the_rules_are_loaded_and_evaluated(fleet: Fleet) -> None:
    fleet["mon1"].run("promtool check config /etc/prometheus/prometheus.yml")
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
    fleet["mon1"].run("amtool check-config /etc/prometheus/alertmanager.yml")


def test_other_clients_get_nothing(fleet: Fleet) -> None:
    """Only the monitoring host reaches exporters, Prometheus and Alertmanager, and only Prometheus can read its key."""
    mon1 = fleet["mon1"].address
    for target in (
        f"{mon1}:9090",
        f"{mon1}:9093",
        f"{fleet['redis1'].address}:9121",
        f"{fleet['redis1'].address}:9100",
    ):
        assert fleet["worker1"].try_run(f"curl --silent --max-time 3 http://{target}/metrics").returncode != 0, target
    for path in ("/etc/prometheus/llm-api-key", "/etc/prometheus/alertmanager.yml"):
        assert fleet["mon1"].try_run(f"runuser -u nobody -- cat {path}").returncode != 0, path
    assert fleet["redis1"].try_run("runuser -u nobody -- cat /etc/redis/llm-exporter.json").returncode != 0
    secrets = [fleet.secret("api_key_readonly"), fleet.secret("redis_exporter_password")]
    for host in ("mon1", "redis1"):
        shown = fleet[host].run("ps axww -o args; journalctl --no-pager -n 2000")
        assert not [secret for secret in secrets if secret in shown]


class Webhook:
    """A web server that keeps what is posted to it."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.received = received
        self.server = ThreadingHTTPServer((HERE, 0), Handler)
        self.url = f"http://{HERE}:{self.server.server_port}/alert"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Mailbox:
    """A mail server that keeps what is sent to it."""

    def __init__(self) -> None:
        self.received: list[Message] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.received.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture
def receivers(fleet: Fleet) -> Iterator[tuple[Webhook, Mailbox]]:
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


def test_an_alert_reaches_people(fleet: Fleet, receivers: tuple[Webhook, Mailbox]) -> None:
    webhook, mailbox = receivers
    host = fleet["worker2"]
    host.run("cp -p /etc/llm/scheduler_config.json /root/kept.json")
    host.run('sed -i \'s/"queue"/"queu"/\' /etc/llm/scheduler_config.json')
    host.try_run("systemctl restart llm-worker@low")  # status 78: it is not started again

    def alerts(status: str) -> list[dict[str, Any]]:
        return [
            alert
            for message in webhook.received
            for alert in message["alerts"]
            if alert["status"] == status and alert["labels"]["alertname"] == "LLMUnitFailed"
        ]

    def mails(name: str) -> list[Message]:
        return [mail for mail in mailbox.received if name in mail["Subject"]]

    try:
        took = wait_until(lambda: alerts("firing"), "the alert at the webhook", 120)
        took += wait_until(lambda: mails("LLMUnitFailed"), "the alert in the mailbox")
        print(f"a failed unit: the alert arrived after {took:.0f} s (the rule waits 30 s)")
        alert = alerts("firing")[0]
        assert (alert["labels"]["host"], alert["labels"]["name"]) == ("worker2", "llm-worker@low.service")
        assert "systemctl status llm-worker@low.service" in alert["annotations"]["description"]
        assert mails("LLMUnitFailed")[0]["To"] == "operator@example.com"
        firing = value(fleet, "count(ALERTS{alertstate=%22firing%22,alertname!=%22LLMUnitFailed%22})")
        assert firing == [], "no other alert fires"
    finally:
        host.run("cp -p /root/kept.json /etc/llm/scheduler_config.json; rm /root/kept.json")
        host.run("systemctl restart llm-worker@low")
    wait_until(lambda: alerts("resolved"), "the end of the alert", 120)


def test_a_second_run_again_changes_nothing(fleet: Fleet) -> None:
    assert fleet.play("deploy").changes() == []
