"""Every key of `scheduler_config.json`, with its type, bounds and default. docs/configuration.md explains each.

`type_checks` derives a JSON Schema from these structs, so this is the only list of keys. Times are in seconds and
sizes in bytes unless a name says otherwise.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(min_length=1)]
# A priority level names an RQ queue, a systemd instance (llm-worker@high) and a folder of keys.
Level = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
# package.module:function
Dotted = Annotated[str, Meta(pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*:[A-Za-z_][\w]*$")]

Quality = Literal["valid", "repaired", "truncated"]

SPOOL = "./data/llm_generated"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the configuration. An unknown key is an error."""


class Directories(_Part, frozen=True):
    """The folders of the spool. They must be on one file system, because documents move by rename."""

    watch_directory: Text | Annotated[list[Text], Meta(min_length=1)] = f"{SPOOL}/raw"
    output_directory: Text = f"{SPOOL}/processed"
    archive_directory: Text = f"{SPOOL}/archive"
    error_directory: Text = f"{SPOOL}/errors"
    temp_directory: Text = f"{SPOOL}/temp"

    @property
    def watch(self) -> tuple[str, ...]:
        """The watch folders, also when there is only one."""
        return (self.watch_directory,) if isinstance(self.watch_directory, str) else tuple(self.watch_directory)


class Autoscale(_Part, frozen=True):
    """Settings for `max_workers: "auto"`. This `max_workers` is per host; None: from its CPUs and memory."""

    target_seconds: Annotated[float, Meta(gt=0)] = 10
    min_workers: Positive = 1
    max_workers: Positive | None = None
    shrink_after: Annotated[float, Meta(gt=0)] = 300
    look_every: Annotated[float, Meta(gt=0)] = 5


class Processing(_Part, frozen=True):
    mode: Literal["real_time", "batch", "hybrid"] = "hybrid"
    max_workers: Positive | Literal["auto"] = 4
    autoscale: Autoscale = Autoscale()
    batch_size: Positive = 50
    batch_timeout: Seconds | None = None
    batch_idle: Seconds | None = None
    retry_attempts: Count = 3
    retry_delay: Seconds = 5
    worker_timeout: Annotated[float, Meta(gt=0, le=7 * 86400)] = 300
    queue_timeout: Seconds = 60
    fairness: Literal["arrival", "source"] = "arrival"
    settle_seconds: Seconds = 2
    scan_interval: Annotated[float, Meta(gt=0)] = 5
    worker_memory: Annotated[int, Meta(ge=64 * 1024 * 1024)] | None = 2 * 1024 * 1024 * 1024
    max_document_bytes: Positive = 16 * 1024 * 1024
    max_result_bytes: Annotated[int, Meta(ge=1, le=256 * 1024 * 1024)] = 64 * 1024 * 1024
    max_depth: Annotated[int, Meta(ge=1, le=500)] = 200

    @property
    def batch_timeout_seconds(self) -> float:
        """The longest time that a document waits in a batch."""
        return 300.0 if self.batch_timeout is None else self.batch_timeout

    @property
    def batch_idle_seconds(self) -> float | None:
        """A batch without a new document for this time is flushed. None: only its size and `batch_timeout` count. The
        default is short while `batch_timeout` is not set: the last documents of a drop need not wait five minutes."""
        if self.batch_idle is not None:
            return self.batch_idle
        return 0.2 if self.batch_timeout is None else None


class Intake(_Part, frozen=True):
    """What counts as a document, and how far it may be repaired. `schemas`: files of JSON Schema by name."""

    accept: Annotated[list[Quality], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["valid", "repaired"])
    repair_max_bytes: Count = 128 * 1024
    schemas: dict[str, Text] = {}
    schema: Text | None = None
    schema_gate: Literal["reject", "warn"] = "reject"
    min_items: Annotated[float, Meta(ge=0, le=1)] = 0.2
    max_lines: Positive = 100_000
    max_lines_bytes: Positive = 128 * 1024 * 1024


class Queue(_Part, frozen=True):
    type: Literal["local", "redis"] = "local"
    redis_url: Annotated[str, Meta(pattern=r"^(rediss?(\+sentinel)?|unix)://")] = "redis://localhost:6379/0"
    max_queue_size: Positive = 10_000
    max_queue_bytes: Positive = 256 * 1024 * 1024
    priority_levels: Annotated[list[Level], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["high", "medium", "low"]
    )


class Api(_Part, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 8080
    workers: Positive | None = None
    reload: bool = False
    access_log: bool = True
    ssl_enabled: bool = False
    ssl_cert_file: str | None = None
    ssl_key_file: str | None = None


_URGENT = ("urgent", "emergency", "critical", "asap", "immediately", "緊急", "紧急", "立即", "至急")
_LOW_PRIORITY = ("test", "sample", "demo", "draft", "測試", "测试", "範例", "草稿")


class PriorityRules(_Part, frozen=True):
    urgent_keywords: list[Text] = msgspec.field(default_factory=lambda: list(_URGENT))
    low_priority_keywords: list[Text] = msgspec.field(default_factory=lambda: list(_LOW_PRIORITY))


class Routing(_Part, frozen=True):
    """A signal whose switch is None is computed only if a rule reads it: all signals take longer than the rest of
    ingest. `languages`: those to expect (None: all known ones). `industry_model`: a file made by `llmctl router train`
    (None: the router's own). `labels`: the file for corrections.
    """

    enabled: bool = True
    geo_detection: bool | None = None
    industry_classification: bool | None = None
    language_detection: bool | None = None
    languages: Annotated[list[Text], Meta(min_length=1)] | None = None
    industry_model: Text | None = None
    labels: Text = "./data/labels.jsonl"
    priority_rules: PriorityRules = PriorityRules()


class Then(_Part, frozen=True):
    """What a rule sets in a document's route. A priority without a `queue` implies the queue of that name."""

    priority: Level | None = None
    queue: Level | None = None
    handler: Text | None = None
    schema: Text | None = None
    accept: Annotated[list[Quality], Meta(min_length=1)] | None = None
    tags: list[Text] = []


class Rule(_Part, frozen=True):
    """A rule of `routes`. `when` is JSONLogic. `stop`: when the rule applies, later rules are not evaluated."""

    name: Annotated[str, Meta(pattern=r"^\S.{0,63}$")]
    when: dict[str, Any] | bool = True
    then: Then = Then()
    stop: bool = False


class AlertThresholds(_Part, frozen=True):
    cpu_usage: Percent = 80
    memory_usage: Percent = 85
    queue_size: Count = 1000
    error_rate: Percent = 10


class Email(_Part, frozen=True):
    enabled: bool = False
    smtp_server: str = ""
    smtp_port: Port = 587
    username: str = ""
    password: str = ""
    recipients: list[Text] = []


class Slack(_Part, frozen=True):
    enabled: bool = False
    webhook_url: str = ""


class NotificationChannels(_Part, frozen=True):
    email: Email = Email()
    slack: Slack = Slack()


class Monitoring(_Part, frozen=True):
    enabled: bool = True
    metrics_retention_days: Positive = 30
    ledger_documents: Positive = 250_000
    alert_thresholds: AlertThresholds = AlertThresholds()
    notification_channels: NotificationChannels = NotificationChannels()


class ApiKeys(_Part, frozen=True):
    """The keys of the roles, in clear or as `sha256:` and the 64 hex digits of the hash."""

    admin: str = ""
    readonly: str = ""

    def __repr__(self) -> str:
        return "ApiKeys((hidden))"


class Security(_Part, frozen=True):
    """Access to the API, and encryption. `api_keys_file` holds the keys that `llmctl key create` makes."""

    api_key_enabled: bool = False
    api_keys: ApiKeys = ApiKeys()
    api_keys_file: Text = "./data/api_keys.json"
    jwt_enabled: bool = False
    jwt_secret: str = ""
    jwt_expiration: Positive = 3600
    encryption_enabled: bool = False
    encryption_key: str | list[str] = ""
    encrypt_sensitive_fields: list[Text] = []
    encrypt_originals: bool = False

    @property
    def encryption_keys(self) -> tuple[str, ...]:
        """The first key seals; all keys open."""
        return split_keys(self.encryption_key)

    def __repr__(self) -> str:
        return (
            f"Security(api_key_enabled={self.api_key_enabled}, api_keys_file={self.api_keys_file!r}, "
            f"jwt_enabled={self.jwt_enabled}, encryption_enabled={self.encryption_enabled}, (hidden))"
        )


def split_keys(value: str | Sequence[str]) -> tuple[str, ...]:
    """The keys, the sealing key first. A string may hold several, separated by lines or commas."""
    texts = [value] if isinstance(value, str) else value
    return tuple(key for text in texts for key in re.split(r"[\s,]+", text) if key)


class Deployment(_Part, frozen=True):
    environment: Text = "development"
    debug_mode: bool = False
    auto_reload: bool = False


class Logging(_Part, frozen=True):
    """`file`: the rotated log of local mode. None: only stderr, which systemd passes to its journal."""

    format: Literal["human", "json"] = "human"
    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str | None = "./logs/scheduler.log"


class Config(_Part, frozen=True):
    """The whole of `scheduler_config.json`."""

    directories: Directories = Directories()
    processing: Processing = Processing()
    intake: Intake = Intake()
    queue: Queue = Queue()
    api: Api = Api()
    intelligent_routing: Routing = Routing()
    monitoring: Monitoring = Monitoring()
    security: Security = Security()
    deployment: Deployment = Deployment()
    routes: list[Rule] = []
    handlers: dict[str, Dotted] = {}
    logging: Logging = Logging()

    @property
    def default_handler(self) -> str:
        """The handler of a document without a rule that sets one: `default`, or the only handler."""
        if "default" not in self.handlers and len(self.handlers) == 1:
            return next(iter(self.handlers))
        return "default"
