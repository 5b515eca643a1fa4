"""RESULTS.md from the kept results. Ratios are between runs of the same round."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks import envs
from benchmarks.contenders import PEER_KINDS, PROJECT, SIGNALS
from benchmarks.drain import DrainRun
from benchmarks.http import ratios
from benchmarks.intake import IN_INGEST, IN_WORKER
from benchmarks.latency import Latency, summary
from benchmarks.results import Section, load, report_path

LIMIT = "plain-sync"
_TITLES = {
    PROJECT: "**this project**",
    SIGNALS: "this project, detecting place, industry and language",
    "plain-sync": "plain loop, one sync per 512 files (the limit)",
    "plain": "plain loop, no sync",
    "rq-fork": "watchdog + RQ, `Worker` (forks)",
    "rq-simple": "watchdog + RQ, `SimpleWorker`",
    "celery": "watchdog + Celery",
    "dramatiq": "watchdog + Dramatiq",
    "huey": "watchdog + Huey",
    "taskiq": "watchdog + Taskiq",
    "arq": "watchdog + arq",
}
_DURABLE = {PROJECT, SIGNALS, LIMIT}
_MIB = 2**20


def write(quick: bool) -> str:
    """Write the report of everything measured. Returns its path."""
    parts = ["# Results", _ABOUT]
    if quick:
        parts.append(
            "**Not the results: a quick run, which only shows that everything works, or a choice of contenders.**"
        )
    writers: dict[str, Callable[[Section], list[str]]] = {
        "drain": _drain,
        "long": _long,
        "latency": _latency,
        "memory": _memory,
        "intake": _intake,
        "idle": _idle,
        "http": _http,
    }
    for name, writer in writers.items():
        section = load(name, quick)
        if section:
            parts += writer(section)
    path = report_path(quick)
    path.write_text("\n\n".join(parts) + "\n")
    return str(path)


_ABOUT = (
    "Made by `make bench`. [README.md](README.md) says what is the same for all contenders, what differs, and how to "
    "read this."
)


def _head(title: str, section: Section) -> list[str]:
    machine = section.machine
    return [f"## {title}", f"{machine.date}. {machine.line}. Load before: {machine.load:.1f}."]


def _drain(section: Section) -> list[str]:
    by_name = _grouped(section.drained)
    rows = []
    for name in sorted(by_name, key=lambda each: -_median(run.rate for run in by_name[each])):
        runs = by_name[name]
        rows.append(
            [
                _TITLES[name],
                _versions(name),
                f"{runs[0].documents:,}",
                _spread([run.rate for run in runs]),
                f"{_median(run.steady for run in runs):,.0f}",
                _ratios(by_name.get(PROJECT, []), runs, name),
                f"{_median(run.cpu_per_1000 for run in runs):.2f}",
                "yes" if name in _DURABLE else "no",
            ]
        )
    columns = (
        *("contender", "version", "documents", "docs/s, median (min–max)", "steady docs/s"),
        *("project is × as fast", "CPU s per 1,000", "synced"),
    )
    rounds = max(run.round for run in section.drained) + 1
    about = (
        f"{rounds} interleaved round(s), shuffled. From the start of ingest, feeder or loop to the last original in "
        "the archive. *steady*: between a tenth and nine tenths of the documents, without start and tail (the "
        "project's tail contains the 0.2 s that the last, incomplete batch waits). *×*: the project's rate divided by "
        "the contender's in the same round, median (min–max)."
    )
    parts = [*_head("Draining a backlog", section), about, _table(columns, rows)]
    if PROJECT in by_name:
        parts += ["### The project's CPU by process", *_by_role(by_name[PROJECT], by_name.get(LIMIT, []))]
    return parts


def _by_role(runs: Sequence[DrainRun], limit: Sequence[DrainRun]) -> list[str]:
    roles = sorted({role for run in runs for role in run.cpu})
    rows = [[role, _spread([1000 * run.cpu.get(role, 0.0) / run.documents for run in runs], ".3f")] for role in roles]
    rows.append(["**all**", _spread([run.cpu_per_1000 for run in runs], ".3f")])
    if limit:
        rows.append(["for comparison: the plain loop with sync", _spread([run.cpu_per_1000 for run in limit], ".3f")])
    return ["CPU seconds per 1,000 documents, median (min–max).", _table(("process", "CPU s per 1,000"), rows)]


def _long(section: Section) -> list[str]:
    rows = [
        [
            _TITLES[run.contender],
            f"{run.documents:,}",
            f"{run.rate:,.0f}",
            f"{run.steady:,.0f}",
            f"{run.cpu_per_1000:.2f}",
        ]
        for run in section.drained
    ]
    columns = ("contender", "documents", "docs/s", "steady docs/s", "CPU s per 1,000")
    parts = [*_head("A long drain", section), "One run each.", _table(columns, rows)]
    for run in section.drained:
        if run.contender == PROJECT and run.memory:
            parts += ["### Memory of the processes during the drain", *_resident(run)]
    return parts


def _resident(run: DrainRun) -> list[str]:
    warm = min(20_000, run.documents // 10)
    samples = [sample for done, sample in run.memory if done >= warm] or [run.memory[-1][1]]
    rows = []
    for role in sorted(samples[-1]):
        values = [sample[role] / _MIB for sample in samples if role in sample]
        difference = max(values) - values[0]
        rows.append([role, f"{values[0]:.1f}", f"{values[-1]:.1f}", f"{max(values):.1f}", f"{difference:+.1f}"])
    about = (
        f"Resident MiB. *first*: after {warm:,} documents. The server grows with the ledger (see below), "
        "ingest with the files that it holds back."
    )
    return [about, _table(("process", "first", "last", "highest", "highest − first"), rows)]


def _latency(section: Section) -> list[str]:
    rows = []
    for each in section.latencies:
        numbers = summary(each)
        state = f"backlog of {each.backlog:,} `low`, a `high` dropped" if each.backlog else "idle"
        figures = [f"{numbers[key]:.1f}" for key in ("p50", "p95", "p99", "max")]
        rows.append([_TITLES[each.contender], state, f"{len(each.seconds)}", *figures])
    about = (
        "Milliseconds from the complete file to its result; `real_time` mode; polled every 0.4 ms. "
        "Idle: one document at a time; under the backlog: one every 20 to 60 ms."
    )
    columns = ("contender", "system", "drops", "p50", "p95", "p99", "max")
    shown = [*_head("Latency", section), about, _table(columns, rows)]
    return shown + _shortfalls(section.latencies)


def _shortfalls(latencies: Iterable[Latency]) -> list[str]:
    few = [each for each in latencies if each.backlog and len(each.seconds) < 100]
    return [f"The backlog lasted for only {len(each.seconds)} drops: p99 is about the maximum." for each in few]


def _memory(section: Section) -> list[str]:
    rows = [
        [
            f"{each.per_job}",
            f"{each.documents:,} in {each.jobs:,} jobs",
            f"{each.queued:,.0f}",
            f"{each.body:,.0f}",
            f"{each.queued - each.body:,.0f}",
            f"{each.done:,.0f}",
        ]
        for each in section.memory
    ]
    about = "Bytes per document: difference of `used_memory` after `MEMORY PURGE`, divided by the number of documents."
    columns = ("documents a job", "measured", "queued", "of that, the compressed body", "overhead", "finished (ledger)")
    return [*_head("Memory of Redis", section), about, _table(columns, rows)]


def _idle(section: Section) -> list[str]:
    idle = section.idle
    if idle is None:
        return []
    rows = []
    for role in sorted(idle.memory):
        cpu = idle.cpu.get(role, 0.0)
        rows.append([role, f"{cpu:.2f}", f"{100 * cpu / idle.seconds:.2f} %", f"{idle.memory[role] / _MIB:.0f}"])
    total = sum(idle.cpu.values())
    held = sum(idle.memory.values()) / _MIB
    rows.append(["**all**", f"{total:.2f}", f"**{100 * total / idle.seconds:.2f} %**", f"{held:.0f}"])
    about = f"`llmctl up` for {idle.seconds:.0f} s with nothing to do. CPU time is counted in steps of 10 ms."
    columns = ("process", "CPU s", "share of one core", "resident MiB")
    return [*_head("Idle", section), about, _table(columns, rows)]


def _http(section: Section) -> list[str]:
    http = section.http
    if http is None:
        return []
    names = [load.name for load in http.rounds[0]]
    rows = []
    for name in names:
        loads = [load for turn in http.rounds for load in turn if load.name == name]
        shares = ratios(http, name)
        rows.append(
            [
                name,
                f"{min(load.rate for load in loads):,.0f}-{max(load.rate for load in loads):,.0f}",
                f"{statistics.median(load.p99_ms for load in loads):.1f}",
                f"{min(shares):.2f}-{max(shares):.2f}",
            ]
        )
    posts = [[load.name, f"{load.rate:,.0f}", f"{load.p99_ms:.1f}", ""] for load in http.posts]
    refused = sum(load.refused for turn in [*http.rounds, http.posts] for load in turn)
    about = (
        f"One uvicorn process, {http.documents:,} documents in the ledger, wrk with {http.connections} connections, "
        f"{len(http.rounds)} interleaved rounds; hello is a bare Starlette endpoint under the same uvicorn. "
        f"{refused} requests were refused. A 202 of `POST /jobs` (1.8 kB) means that the document is synced."
    )
    columns = ("what", "requests/s", "p99 ms (median)", "of hello's rate, same round")
    followed = http.followed
    rest = (
        f"`/metrics` took {statistics.median(http.metrics_ms):.0f} ms (median of {len(http.metrics_ms)}; at most "
        f"{max(http.metrics_ms):.0f}). {followed.followers} concurrent clients of `/events` each received "
        f"{followed.transitions} transitions within {followed.seconds:.1f} s."
    )
    return [*_head("The API", section), about, _table(columns, [*rows, *posts]), rest]


def _versions(name: str) -> str:
    if name not in PEER_KINDS:
        return ""
    kind = PEER_KINDS[name]
    return envs.versions(kind.env, *kind.packages)


def _intake(section: Section) -> list[str]:
    rows = [
        [each.step, f"{each.size:,.0f}", f"{each.per_second:,.0f}", f"{1e6 / each.per_second:,.1f}"]
        for each in section.rates
    ]
    about = "One process, in memory; the best of several interleaved rounds, since others use the machine, too."
    table = _table(["step", "bytes", "docs/s", "µs a document"], rows)
    return [*_head("Intake alone", section), about, table, *_share_of_intake(section)]


def _share_of_intake(section: Section) -> list[str]:
    """The share of intake (in ingest and in a worker) in the CPU time of a drain."""
    each = {rate.step: 1e6 / rate.per_second for rate in section.rates}
    intake = each[IN_INGEST] + each[IN_WORKER]
    sentences = []
    for run in section.drained:
        total = 1000 * run.cpu_per_1000
        sentences.append(
            f"That is {intake / total:.1%} of the whole path: {intake:.1f} µs of the {total:,.0f} µs of CPU time that "
            f"all processes together spend on a document ({run.documents:,} documents, drained in the same run)."
        )
    return sentences


def _grouped(runs: Iterable[DrainRun]) -> dict[str, list[DrainRun]]:
    groups: dict[str, list[DrainRun]] = {}
    for run in runs:
        groups.setdefault(run.contender, []).append(run)
    return groups


def _ratios(ours: Sequence[DrainRun], theirs: Sequence[DrainRun], name: str) -> str:
    if name == PROJECT or not ours:
        return ""
    rates = {run.round: run.rate for run in ours}
    return _spread([rates[run.round] / run.rate for run in theirs if run.round in rates], ".2f")


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def _spread(values: Sequence[float], form: str = ",.0f") -> str:
    if len(values) == 1:
        return format(values[0], form)
    return f"{format(_median(values), form)} ({format(min(values), form)}–{format(max(values), form)})"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
