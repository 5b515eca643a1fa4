"""A handler of one's own: adds up an invoice and refuses one that does not add up.

{"handlers": {"default": "invoice_totals:handle"}} in scheduler_config.json, with this file in the folder
that the workers are started in (or installed as a package).
"""

from decimal import Decimal
from typing import Any

from llm_scheduler.jobs.handler import Context, Reject


def handle(document: Any, context: Context) -> dict[str, Any]:
    """`{"lines": [{"quantity": 2, "price": "9.50"}], "total": "19.00"}` to its sum and the number of lines."""
    if not isinstance(document, dict) or not isinstance(document.get("lines"), list):
        raise Reject("an invoice has a list of lines")
    total = sum((amount(line) for line in document["lines"]), Decimal(0))
    stated = document.get("total")
    if stated is not None and Decimal(str(stated)) != total:
        raise Reject(f"the lines add up to {total}, but the invoice says {stated}")
    return {"total": str(total), "lines": len(document["lines"]), "source": context.source}


def amount(line: dict[str, Any]) -> Decimal:
    # Decimal(str(...)): 0.1 + 0.2 has to be 0.3 where money is meant.
    return Decimal(str(line["quantity"])) * Decimal(str(line["price"]))
