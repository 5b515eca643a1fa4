"""From a payload to the document in it: intake, then the checks of the configuration and the route."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_scheduler.jobs import intake
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Payload, Route
from llm_scheduler.jobs.intake import IntakeLimits, IntakeRejection, ReadDocument
from llm_scheduler.jobs.receipt import DocumentWarning, Quality
from llm_scheduler.jobs.schemas import Schema
from llm_scheduler.jobs.sealing import Sealing
from llm_scheduler.jobs.store.outcomes import Read

_MAX_NAME = 80  # characters kept of a producer's or model's name


class Reader:
    """Reads payloads. One for each worker process."""

    def __init__(
        self,
        processing: Processing,
        settings: Intake,
        schemas: Mapping[str, Schema] | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self._limits = IntakeLimits.from_config(processing)
        self._settings = settings
        self._schemas = schemas or {}
        self._sealing = sealing

    def read(self, payload: Payload) -> ReadDocument:
        """The document in `payload`. Raises `IntakeRejection` when it has none or its route does not accept it, and
        `WrongKey` when another key has sealed it."""
        reading = self.parse(payload.text(self._sealing.seal if self._sealing else None))
        try:
            return self.check(reading, payload.route)
        except IntakeRejection as rejection:
            if self._sealing is None:
                raise
            message = self._sealing.hidden(rejection.message, reading.text)
            raise IntakeRejection(rejection.code, message, rejection.position, kind=rejection.kind) from None

    def parse(self, raw: bytes) -> ReadDocument:
        """The document in `raw`, of any quality. Raises `IntakeRejection`."""
        try:
            return intake.read(raw, self._limits, self._settings.repair_max_bytes)
        except (IntakeRejection, MemoryError):
            raise
        except Exception as error:
            message = f"Intake failed on this text ({type(error).__name__}), which is a fault of the scheduler."
            raise IntakeRejection(Code.INVALID_JSON, f"{message} Please report it, with the original.") from error

    def check(self, reading: ReadDocument, route: Route | None = None) -> ReadDocument:
        """`reading`, perhaps with more warnings.

        Raises `IntakeRejection` when `route` (None: the configuration) does not accept its quality, or it does not fit
        the schema.
        """
        accepted = (route and route.accept) or self._settings.accept
        if reading.quality.value in accepted:
            return self._check_schema(reading, (route and route.schema) or self._settings.schema)
        codes = ", ".join(dict.fromkeys(repair.code for repair in reading.repairs))
        code, why = {
            Quality.TRUNCATED: (Code.TRUNCATED, "The text ends too early"),
            Quality.REPAIRED: (Code.NOT_ACCEPTED, f"It would have to be repaired ({codes})"),
            Quality.VALID: (Code.NOT_ACCEPTED, "It is valid"),
        }[reading.quality]
        cause = f" {reading.rejection.message}" if reading.rejection else ""
        position = reading.rejection.position if reading.rejection else None
        raise IntakeRejection(code, f"{why}, and intake.accept is {', '.join(accepted)}.{cause}", position)

    def _check_schema(self, reading: ReadDocument, name: str | None) -> ReadDocument:
        if not name:
            return reading
        schema = self._schemas.get(name)
        problems = schema.problems(reading.value) if schema else [f"no schema is called {name!r} in this configuration"]
        if not problems:
            return reading
        if self._settings.schema_gate == "reject":
            raise IntakeRejection(Code.SCHEMA, f"It does not fit the schema {name}: " + "; ".join(problems))
        warnings = tuple(DocumentWarning("schema", problem) for problem in problems)
        return replace(reading, warnings=reading.warnings + warnings)


def _origin(reading: ReadDocument) -> tuple[str, str]:
    """The producer and the model in a document's `metadata`; empty if it does not say. An envelope's model counts."""
    metadata = reading.value.get("metadata") if isinstance(reading.value, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    model = _name(metadata.get("model")) or (reading.envelope.model[:_MAX_NAME] if reading.envelope else "")
    return _name(metadata.get("source")), model


def _name(value: Any) -> str:
    return value.strip()[:_MAX_NAME] if isinstance(value, str) else ""


def intake_report(reading: ReadDocument, original: bytes | None = None) -> Read | None:
    """What the collector needs beside the original's bytes; None for a valid document of unknown origin.

    `original`: the text before its sensitive values were sealed, if they were.
    """
    producer, model = _origin(reading)
    unchanged = reading.quality is Quality.VALID and reading.envelope is None and original in (None, reading.text)
    if unchanged and not (reading.warnings or producer or model):
        return None
    return Read(
        quality=reading.quality.value,
        document=b"" if unchanged else reading.text,
        repairs=list(reading.repairs),
        warnings=list(reading.warnings),
        coverage=reading.coverage,
        tools=dict(reading.tools),
        envelope=reading.envelope,
        producer=producer,
        model=model,
        count=longest_list(reading.value),
    )


def longest_list(value: Any) -> int:
    """The length of a document that is a list, or of the longest list among its members; -1 without a list."""
    if isinstance(value, list):
        return len(value)
    members = value.values() if isinstance(value, dict) else ()
    return max((len(member) for member in members if isinstance(member, list)), default=-1)
