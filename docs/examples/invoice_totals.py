"""An example of a handler: it adds up the lines of an invoice, and rejects an invoice whose total is wrong.

Put {"handlers": {"default": "invoice_totals:handle"}} into scheduler_config.json, and this file into the folder
in which the workers are started (or install it as a package).
"""

from decimal import Decimal
from typing import Any

from llm_scheduler import Context, Reject


def handle(document: Any, context: Context) -> dict[str, Any]:
    """The sum and the number of lines of `{"lines": [{"quantity": 2, "price": "9.50"}], "total": "19.00"}`."""
    if not isinstance(document, dict) or not isinstance(document.get("lines"), list):
        raise Reject("an invoice has a list of lines")
    total = sum((amount(line) for line in document["lines"]), Decimal(0))
    stated = document.get("total")
    if stated is not None and Decimal(str(stated)) != total:
        raise Reject(f"the lines add up to {total}, but the invoice says {stated}")
    return {"total": str(total), "lines": len(document["lines"]), "source": context.source}


def amount(line: dict[str, Any]) -> Decimal:
    # Decimal(str(...)): with money, 0.1 + 0.2 must be exactly 0.3.
    return Decimal(str(line["quantity"])) * Decimal(str(line["price"]))
