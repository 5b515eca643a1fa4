"""Memory: the bytes of Redis for a document, queued and done."""

import time
from pathlib import Path

import msgspec

from benchmarks import corpus
from benchmarks.contenders import KEYS, Project
from benchmarks.server import used_memory, wait_until
from benchmarks.spool import Spool
from llm_scheduler.jobs.document import pack_body

DOCUMENTS = 6_000  # less than max_queue_size


class RedisMemory(msgspec.Struct, frozen=True):
    """Bytes of Redis per document. `body`: the mean compressed document, a part of `queued`."""

    documents: int
    per_job: int
    jobs: int
    queued: float
    body: float
    done: float


def redis_memory(documents: int, per_job: int, folder: Path) -> RedisMemory:
    """Queue `documents` while the workers are stopped, then start the workers. Measures before, between and after."""
    spool = Spool(folder / f"memory-{per_job}-{time.time_ns()}")
    project = Project("project", spool, mode="real_time", batch_size=per_job)
    assert project.server
    client = project.server.client
    try:
        project.prepare()
        project.stop()
        client.execute_command("CONFIG", "SET", "appendonly", "no")  # its buffers would be measured too
        before = used_memory(client)
        finished = project.count("done")
        corpus.write(str(spool.raw), documents, priority="high")
        project.begin("ingest")
        wait_until(lambda: project.count("queued") >= documents, f"{documents} documents queued", 120, 0.2)
        project.stop("ingest")
        jobs = int(client.llen(KEYS.queue("high")))
        queued = used_memory(client) - before
        everyone = ("collector", "scheduler", *project.WORKERS)
        project.begin(*everyone)
        wait_until(lambda: project.count("done") >= documents + finished, f"{documents} documents done", 300, 0.2)
        wait_until(lambda: client.llen(KEYS.queue("high")) == 0 and client.xlen(KEYS.outcomes("high")) == 0, "rest", 30)
        project.stop(*everyone)
        done = used_memory(client) - before
    finally:
        project.close()
    body = sum(len(pack_body(corpus.document(index, "high"))[0]) for index in range(documents)) / documents
    return RedisMemory(documents, per_job, jobs, queued / documents, body, done / documents)
