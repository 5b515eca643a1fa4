"""One SIGTERM at any moment: the document in hand is finished, the rest of its job goes back, the worker leaves with 0.

`LLM_TEST_STOPS=1000` asks for more trials than the ordinary suite has.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import KEYS, Fleet, wait_until
from redis import Redis

from llm_scheduler.jobs.document import Payload, Route, Status, new_id
from llm_scheduler.jobs.store import outcomes, submission

TRIALS = int(os.environ.get("LLM_TEST_STOPS", "32"))
AT_ONCE = 4
MAX_WAIT = 1.2  # seconds from the worker's first heed of signals; its start-up is the first third of it

HANDLERS = """
import os, time

def handle(document, context):
    time.sleep(document["seconds"])
    line = f"{context.id}\\n".encode()
    file = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)
    return 1
"""


class Feeder(threading.Thread):
    """Keeps a few jobs of 1 to 12 documents on the queue, some of them slow."""

    def __init__(self, redis: Redis, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._redis = redis
        self._chance = chance
        self._enough = threading.Event()
        self.ids: list[str] = []

    def run(self) -> None:
        number = 0
        while not self._enough.wait(0.02):
            if self._redis.llen(KEYS.queue("medium")) < 8:
                number += 1
                payloads = [self._payload() for _ in range(self._chance.randint(1, 12))]
                with self._redis.pipeline() as pipeline:
                    submission.enqueue(pipeline, self._redis, f"job-{number}", "medium", payloads)
                    submission.record(pipeline, Status.QUEUED, 1.0, payloads, [10] * len(payloads), f"job-{number}")
                    pipeline.execute()
                self.ids += [payload.id for payload in payloads]

    def _payload(self) -> Payload:
        body = b'{"seconds": %.4f}' % self._chance.choice([0, 0.002, 0.05 * self._chance.random()])
        route = Route(priority="medium", queue="medium", handler="default", reasons=[])
        return Payload(new_id(time.time()), "c", "a.json", 1.0, 1.0, route, body)

    def stop(self) -> None:
        self._enough.set()
        self.join()


def heeds_sigterm(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process has a handler for SIGTERM or holds it back until it has (proc(5): SigCgt, SigBlk)."""
    bit = 1 << (signal.SIGTERM - 1)
    with open(f"/proc/{process.pid}/status") as file:
        masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigCgt", "SigBlk"))]
    return any(mask & bit for mask in masks)


def trial(fleet: Fleet, wait: float) -> tuple[int, float]:
    """Start a worker, send it SIGTERM once `wait` seconds later; its exit status and how long it took to leave."""
    with (fleet.folder / "workers.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "llm_scheduler.jobs.worker.worker",
                "medium",
                "--config",
                str(fleet.config_path),
            ],
            cwd=fleet.folder,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        wait_until(lambda: heeds_sigterm(process), "a worker that heeds signals", 30, every=0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        return process.wait(30), time.monotonic() - asked
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_one_sigterm_at_any_moment(fleet: Fleet, redis: Redis) -> None:
    seed = int(os.environ.get("LLM_TEST_SEED", random.randrange(10**6)))
    print(f"LLM_TEST_SEED={seed}")
    chance = random.Random(seed)
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    fleet.configure(handlers={"default": "my_handlers:handle"}).config()
    feeder = Feeder(redis, random.Random(seed))
    feeder.start()
    waits = [chance.uniform(0, MAX_WAIT) for _ in range(TRIALS)]
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as together:
        ended = list(together.map(lambda wait: trial(fleet, wait), waits))
    feeder.stop()
    log = (fleet.folder / "workers.log").read_text()
    seconds = [each for _, each in ended]
    returned = redis.eval("return #redis.call('KEYS', ARGV[1])", 0, KEYS.job("*-rest"))
    print(
        f"{TRIALS} stops in {time.monotonic() - began:.0f} s; slowest {max(seconds):.2f} s, "
        f"median {sorted(seconds)[TRIALS // 2]:.2f} s; {log.count('takes jobs')} had begun to take jobs, "
        f"{len(feeder.ids)} documents, {returned} rests of jobs on the queue at the end"
    )
    assert Counter(status for status, _ in ended) == {0: TRIALS}
    assert max(seconds) < 5
    assert "Traceback" not in log
    assert (redis.zcard(KEYS.begun("medium")), redis.llen(KEYS.intermediate("medium"))) == (0, 0), "nothing is stuck"
    assert redis.scard(KEYS.workers_of("medium")) == 0, "every one has said goodbye"

    fleet.start("medium")  # one more does what they left
    wait_until(lambda: len(done(redis)) >= len(feeder.ids), "an outcome for every document", 120, every=0.5)
    assert fleet.stop("medium")["medium"] == 0
    outcomes = done(redis)
    assert sorted(each.id for each in outcomes) == sorted(feeder.ids), "each has one outcome"
    assert {(each.kind, each.attempts) for each in outcomes} == {("done", 1)}
    runs = (fleet.folder / "runs").read_text().split()
    assert sorted(runs) == sorted(feeder.ids), "and was run once"
    assert any("-rest" in each.rq_job_id for each in outcomes), "some were in the rest of a job that was cut short"


def done(redis: Redis) -> list[outcomes.Outcome]:
    return [
        each
        for _, fields in redis.xrange(KEYS.outcomes("medium"))
        for each in outcomes.decode(fields[outcomes.FIELD.encode()])
    ]
