"""Where the report and the original of a finished document lie, and which two belong together.

A *report* is the result in the output folder, or the error report next to an original in the error folder. A report is
a document's own only if it begins with its id.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from llm_scheduler.ingest.spool.folders import Folders
from llm_scheduler.ingest.spool.names import REPORT_SUFFIX, line_path, path_options, result_paths, safe_path, with_id
from llm_scheduler.ingest.spool.result_files import id_of
from llm_scheduler.jobs.document import ID_PATTERN, Status
from llm_scheduler.jobs.store.ledger import Entry

_ID_IN_NAME = re.compile(rf"\.({ID_PATTERN.pattern})(?=\.[^.]*$|$)")


class FinishedFiles(NamedTuple):
    """The files of a finished document. `report` is its result or its error report."""

    report: str
    original: str | None


def find(folders: Folders, entry: Entry) -> FinishedFiles | None:
    """The files of a finished document; None when they were removed, or are on another host."""
    if entry.status == Status.DONE:
        reports, ending = folders.output, ""
    elif entry.status in (Status.REJECTED, Status.CANCELLED):
        reports, ending = folders.error, REPORT_SUFFIX
    else:
        return None
    for name in path_options(safe_path(entry.source), entry.id, ending):
        report = os.path.join(reports, name + ending)
        if id_of(report) == entry.id:
            return FinishedFiles(report, _first_existing(original_paths(folders, report)))
    return None


def original_paths(folders: Folders, report: str) -> list[str]:
    """Where the original of a report may be. Reads nothing."""
    if _is_in(folders.error, report):
        return [report.removesuffix(REPORT_SUFFIX)]
    name = os.path.relpath(report, folders.output)
    return [os.path.join(folders.archive, home) for home in (name, line_path(name))]


def report_paths(folders: Folders, original: str) -> list[str]:
    """Where the report of an original may be. Reads nothing."""
    if _is_in(folders.error, original):
        return [original + REPORT_SUFFIX]
    names = result_paths(os.path.relpath(original, folders.archive))
    return [os.path.join(folders.output, name) for name in names]


# The counterparts, None when there is none. `Commit._places` may give an original a name with its id while its report,
# which a crash left in place, has none.


def original_of(folders: Folders, report: str) -> str | None:
    paths = original_paths(folders, report)
    document_id = id_of(report)
    return _first_existing([*paths, *(with_id(path, document_id) for path in paths if document_id)])


def report_of(folders: Folders, original: str) -> str | None:
    ending = REPORT_SUFFIX if _is_in(folders.error, original) else ""
    for report in report_paths(folders, original):
        if os.path.lexists(report) and not os.path.isdir(report):  # (a folder has the results of a split file)
            return report
        folder, name = os.path.split(report.removesuffix(ending))
        if found := _ID_IN_NAME.search(name):
            without_id = os.path.join(folder, name[: found.start()] + name[found.end() :] + ending)
            if id_of(without_id) == found[1]:
                return without_id
    return None


def _first_existing(paths: Iterable[str]) -> str | None:
    return next((path for path in paths if os.path.lexists(path)), None)


def _is_in(folder: str, path: str) -> bool:
    return path.startswith(folder + os.sep)
