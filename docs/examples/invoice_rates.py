"""A handler of whole batches: one request for the exchange rates of a hundred invoices, instead of a hundred requests.

Put {"handlers": {"default": "invoice_rates:handle_batch"}} into scheduler_config.json, and this file into the folder in
which the workers are started (or install it as a package).
"""

from decimal import Decimal
from typing import Any

from llm_scheduler import BatchContext, Reject

# Stands for a database or a service, where one request for many documents pays off.
KNOWN = {"TWD": Decimal("0.031"), "EUR": Decimal("1.08"), "USD": Decimal(1)}


def handle_batch(documents: list[Any], context: BatchContext) -> list[dict[str, Any] | Exception]:
    """The amount in USD of each `{"amount": "100", "currency": "TWD"}`: one result for each, in the same order."""
    rates = ask_for_rates({currency(document) for document in documents})
    return [converted(document, rates) for document in documents]


def converted(document: Any, rates: dict[str, Decimal]) -> dict[str, Any] | Exception:
    """The result of one document, or its error: returned, not raised, so the other documents keep their results."""
    code = currency(document)
    if not code:
        return Reject("an invoice has a currency")
    if code not in rates:
        return LookupError(f"no rate for {code} yet")  # the document is retried
    return {"usd": str(Decimal(str(document["amount"])) * rates[code])}


def currency(document: Any) -> str:
    return str(document.get("currency", "")) if isinstance(document, dict) else ""


def ask_for_rates(currencies: set[str]) -> dict[str, Decimal]:
    return {code: KNOWN[code] for code in currencies if code in KNOWN}
