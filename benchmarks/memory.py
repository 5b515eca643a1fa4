"""Memory: what a document costs in Redis while it is queued and when it is done."""

import time
from pathlib import Path

import msgspec

from benchmarks import corpus
from benchmarks.contenders import Project
from benchmarks.server import used_memory, wait_until
from benchmarks.spool import Spool
from llm_scheduler.jobs.document import pack_body
from llm_scheduler.jobs.store.outcomes import stream

DOCUMENTS = 6_000  # below the room that max_queue_size leaves


class RedisMemory(msgspec.Struct, frozen=True):
    """Bytes of Redis per document. `body`: the mean document as it travels, compressed; it is a part of `queued`."""

    documents: int
    per_job: int
    jobs: int
    queued: float
    body: float
    done: float


def redis_memory(documents: int, per_job: int, folder: Path) -> RedisMemory:
    """Queue `documents` with the workers stopped, then let them be done; used_memory before, between and after."""
    spool = Spool(folder / f"memory-{per_job}-{time.time_ns()}")
    project = Project("project", spool, mode="real_time", batch_size=per_job)
    assert project.server
    client = project.server.client
    try:
        project.prepare()
        project.stop()
        client.execute_command("CONFIG", "SET", "appendonly", "no")  # its buffers come and go
        before = used_memory(client)
        finished = project.counted("done")
        corpus.write(str(spool.raw), documents, priority="high")
        project.begin("ingest")
        wait_until(lambda: project.counted("queued") >= documents, f"{documents} documents queued", 120, 0.2)
        project.stop("ingest")
        jobs = int(client.llen("rq:queue:high"))
        queued = used_memory(client) - before
        everyone = ("collector", "scheduler", *project.WORKERS)
        project.begin(*everyone)
        wait_until(lambda: project.counted("done") >= documents + finished, f"{documents} documents done", 300, 0.2)
        wait_until(lambda: client.llen("rq:queue:high") == 0 and client.xlen(stream("high")) == 0, "rest", 30)
        project.stop(*everyone)
        done = used_memory(client) - before
    finally:
        project.close()
    body = sum(len(pack_body(corpus.document(index, "high"))[0]) for index in range(documents)) / documents
    return RedisMemory(documents, per_job, jobs, queued / documents, body, done / documents)
