"""Fuzzes intake with atheris (libFuzzer): `make fuzz`. Whatever comes is read or refused, soon, and JSON comes out.

The corpus begins with the cases of `data/intake_cases.jsonl`. What breaks a promise is left as `crash-*` in the folder.
"""

import base64
import json
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["llm_scheduler.jobs.intake"]):
    from llm_scheduler.jobs.intake import IntakeLimits, IntakeRejection, Quality, read, split

LIMITS = IntakeLimits(max_bytes=1 << 20, max_depth=100)
SECONDS = 4  # of processor time for one text, on a busy machine
CASES = Path(__file__).parent / "data" / "intake_cases.jsonl"


def one(raw: bytes) -> None:
    began = time.process_time()
    try:
        parts = split(raw, "a.jsonl" if raw[:1] == b"L" else "a.json", LIMITS)
    except IntakeRejection:
        return
    for part in parts[:20]:
        try:
            reading = read(part, LIMITS)
        except IntakeRejection:
            continue
        json.loads(reading.text)
        if reading.quality is Quality.REPAIRED:
            assert isinstance(reading.value, dict | list), reading.text
            assert reading.repairs, reading.text
    assert time.process_time() - began < SECONDS


def main() -> None:
    corpus = Path(tempfile.mkdtemp(prefix="llm-fuzz-"))
    for number, line in enumerate(CASES.read_text(encoding="utf-8").rstrip("\n").split("\n")):
        case = json.loads(line)
        raw = case.get("input", "").encode("utf-8", "surrogatepass") or base64.b64decode(case.get("input_base64", ""))
        (corpus / str(number)).write_bytes(raw)
    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
