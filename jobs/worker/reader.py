"""From a payload to the document in it: intake, then what the configuration and the route let pass."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_scheduler.jobs import intake
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Payload, Route
from llm_scheduler.jobs.intake import Limits, Mending, Reading, Refused
from llm_scheduler.jobs.receipt import Quality, Warned
from llm_scheduler.jobs.schemas import Schema
from llm_scheduler.jobs.sealing import Sealing
from llm_scheduler.jobs.store.outcomes import Read

_NAME = 80  # characters of a producer's name that are kept


@dataclass(frozen=True)
class Origin:
    """What a document says of where it comes from; empty where it doesn't."""

    producer: str = ""
    model: str = ""


class Reader:
    """Reads payloads. One a worker process."""

    def __init__(
        self,
        processing: Processing,
        settings: Intake,
        schemas: Mapping[str, Schema] | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self._limits = Limits(processing.max_document_bytes, processing.max_depth)
        self._mending = Mending(settings.repair_max_bytes)
        self._settings = settings
        self._schemas = schemas or {}
        self._sealing = sealing

    def read(self, payload: Payload) -> Reading:
        """The document in `payload`. Raises `Refused` for what is none, and for what its route does not let pass;
        `WrongKey` for what another key has sealed."""
        reading = self.look(payload.text(self._sealing.seal if self._sealing else None))
        try:
            return self.admit(reading, payload.route)
        except Refused as refusal:
            if self._sealing is None:
                raise
            message = self._sealing.hidden(refusal.message, reading.text)
            raise Refused(refusal.code, message, refusal.position, kind=refusal.kind) from None

    def look(self, raw: bytes) -> Reading:
        """The document in `raw`, whatever may pass. Raises `Refused`."""
        try:
            return intake.read(raw, self._limits, self._mending)
        except (Refused, MemoryError):
            raise
        except Exception as error:  # nobody has thought of such a text
            said = f"Intake could not cope with this text ({type(error).__name__}), which is a fault of the scheduler."
            raise Refused(Code.INVALID_JSON, f"{said} Please report it, with the original.") from error

    def admit(self, reading: Reading, route: Route | None = None) -> Reading:
        """`reading`, perhaps with warnings. Raises `Refused` when its quality does not pass on `route` (None: by the
        configuration), or it does not fit the schema."""
        accepted = (route and route.accept) or self._settings.accept
        if reading.quality.value in accepted:
            return self._fitting(reading, (route and route.schema) or self._settings.schema)
        codes = ", ".join(dict.fromkeys(repair.code for repair in reading.repairs))
        code, why = {
            Quality.TRUNCATED: (Code.TRUNCATED, "The text ends too early"),
            Quality.REPAIRED: (Code.NOT_ACCEPTED, f"It would have to be repaired ({codes})"),
            Quality.VALID: (Code.NOT_ACCEPTED, "It is valid"),
        }[reading.quality]
        said = f" {reading.refusal.message}" if reading.refusal else ""
        place = reading.refusal.position if reading.refusal else None
        raise Refused(code, f"{why}, and intake.accept is {', '.join(accepted)}.{said}", place)

    def _fitting(self, reading: Reading, name: str | None) -> Reading:
        if not name:
            return reading
        schema = self._schemas.get(name)
        problems = schema.problems(reading.value) if schema else [f"no schema is called {name!r} in this configuration"]
        if not problems:
            return reading
        if self._settings.schema_gate == "reject":
            raise Refused(Code.SCHEMA, f"It does not fit the schema {name}: " + "; ".join(problems))
        warned = tuple(Warned("schema", problem) for problem in problems)
        return replace(reading, warnings=reading.warnings + warned)


def origin_of(value: Any, reading: Reading | None = None) -> Origin:
    """The producer and the model that a document names in its `metadata`; an envelope's model counts, too."""
    said = value.get("metadata") if isinstance(value, dict) else None
    said = said if isinstance(said, dict) else {}
    model = _name(said.get("model"))
    if not model and reading and reading.envelope:
        model = reading.envelope.model[:_NAME]
    return Origin(_name(said.get("source")), model)


def _name(said: Any) -> str:
    return said.strip()[:_NAME] if isinstance(said, str) else ""


def told(reading: Reading, original: bytes | None = None) -> Read | None:
    """What the collector has to know of `reading` beside the document's own bytes; None when that is nothing.

    `original` is the text before its sensitive values were sealed, where they were.
    """
    origin = origin_of(reading.value, reading)
    count = longest_list(reading.value)
    own = reading.quality is Quality.VALID and reading.envelope is None and original in (None, reading.text)
    if own and not (reading.warnings or origin.producer or origin.model):
        return None
    return Read(
        quality=reading.quality.value,
        document=b"" if own else reading.text,
        repairs=list(reading.repairs),
        warnings=list(reading.warnings),
        coverage=reading.coverage,
        tools=dict(reading.tools),
        envelope=reading.envelope,
        producer=origin.producer,
        model=origin.model,
        count=count,
    )


def longest_list(value: Any) -> int:
    """The number of items of a document that is a list, or of the longest list among its members; -1 without one."""
    if isinstance(value, list):
        return len(value)
    members = value.values() if isinstance(value, dict) else ()
    return max((len(member) for member in members if isinstance(member, list)), default=-1)
