"""The RQ job that carries documents: JSON only, one function only, the documents' bytes beside RQ's own fields.

RQ's `data` field is JSON, and JSON has no bytes. So each document travels as a field `d<n>` of the job's own hash:
fetched in the same round trip, deleted with the job, and addable by a script without knowing RQ's formats.
"""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now

from llm_scheduler.jobs import document
from llm_scheduler.jobs.document import Payload

RUN = "jobs.run.run_documents"
FLUSH = "jobs.batch.flush"


class ForbiddenFunction(Exception):
    """A job in Redis names a function that the project never enqueues."""


def run_documents() -> NoReturn:
    """Stands for `RUN` where RQ asks for a function. This project's worker runs the job's documents itself."""
    raise TypeError("Only this project's worker can run documents: start `llm-worker QUEUE`.")


class DocumentJob(Job):
    """A job with documents. Whoever can write to Redis can't make it run anything but the project's own function."""

    payloads: list[Payload]
    _raw_payloads: list[bytes]

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: Any = None) -> None:
        super().__init__(id, connection, JSONSerializer)
        self.payloads = []
        self._raw_payloads = []

    @classmethod
    def carrying(cls, job_id: str, payloads: Iterable[Payload], queue: str, connection: Redis) -> "DocumentJob":
        """A new job for `payloads`, not yet saved."""
        job = cls.create(
            RUN,
            id=job_id,
            origin=queue,
            connection=connection,
            status=JobStatus.QUEUED,
        )
        assert isinstance(job, cls)
        job.payloads = list(payloads)
        job._raw_payloads = [document.encode(payload) for payload in job.payloads]
        # Time is kept per document, and a job is forgotten at its end: RQ's `timeout` and `result_ttl` are for neither.
        # Beside one document the other two would be a tenth of what its job takes in Redis.
        alone = len(job.payloads) == 1
        job.description = None if alone else f"{len(job.payloads)} documents"
        job.enqueued_at = None if alone else now()
        return job

    @property
    def func(self) -> Callable[..., Any]:
        self.check_function()
        return run_documents

    def check_function(self) -> None:
        """Raise `ForbiddenFunction` if the job names any function but `RUN`. Nothing is imported."""
        if self.func_name != RUN:
            raise ForbiddenFunction(f"{self.func_name or ''!r} is not a function that this project enqueues")

    # A callback is one more dotted path that RQ would import: there are none.
    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        """RQ's fields without the empty ones, and the documents."""
        fields = super().to_dict(include_meta, include_result)
        kept = {name: value for name, value in fields.items() if value != ""}
        kept.update((f"d{index}", raw) for index, raw in enumerate(self._raw_payloads))
        return kept

    def restore(self, raw_data: dict[Any, Any]) -> Any:
        """Raises `msgspec.DecodeError` when a document in the hash is damaged."""
        held: list[tuple[int, bytes]] = []
        for name, value in raw_data.items():
            text = name.decode() if isinstance(name, bytes) else name
            if text[0] == "d" and text[1:].isdigit():
                held.append((int(text[1:]), value))
        held.sort()
        self._raw_payloads = [raw for _, raw in held]
        self.payloads = [document.decode(raw) for raw in self._raw_payloads]
        # None of these may come from Redis: each would name something to import or an address to call.
        hostile = {b"success_callback_name", b"failure_callback_name", b"stopped_callback_name", b"webhooks"}
        return super().restore({name: value for name, value in raw_data.items() if name not in hostile})
