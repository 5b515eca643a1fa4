"""A handler of whole batches: asks for the exchange rates of a hundred invoices in one question instead of a hundred.

{"handlers": {"default": "invoice_rates:handle_batch"}} in scheduler_config.json, with this file in the folder
that the workers are started in (or installed as a package).
"""

from decimal import Decimal
from typing import Any

from llm_scheduler.jobs.handler import BatchContext, Reject

# In place of a database or a service: what is worth asking once for many.
KNOWN = {"TWD": Decimal("0.031"), "EUR": Decimal("1.08"), "USD": Decimal(1)}


def handle_batch(documents: list[Any], context: BatchContext) -> list[dict[str, Any] | Exception]:
    """Each `{"amount": "100", "currency": "TWD"}` to its amount in USD; one result for each, in the same order."""
    rates = ask_for_rates({currency(document) for document in documents})
    return [converted(document, rates) for document in documents]


def converted(document: Any, rates: dict[str, Decimal]) -> dict[str, Any] | Exception:
    """The result, or what speaks against this one document: returned, not raised, so that the others keep theirs."""
    code = currency(document)
    if not code:
        return Reject("an invoice has a currency")
    if code not in rates:
        return LookupError(f"no rate for {code} yet")  # it is tried again
    return {"usd": str(Decimal(str(document["amount"])) * rates[code])}


def currency(document: Any) -> str:
    return str(document.get("currency", "")) if isinstance(document, dict) else ""


def ask_for_rates(currencies: set[str]) -> dict[str, Decimal]:
    return {code: KNOWN[code] for code in currencies if code in KNOWN}
