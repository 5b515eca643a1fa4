"""The documents: valid model answers of about 2 kB. The same number gives the same bytes."""

import json
import os
import random

_MIN_CONTENT = 1780  # bytes
_PRIORITIES = {"high": 20, "medium": 40, "low": 30, None: 10}
_SOURCES = ("crm", "helpdesk", "reports", "assistant")
_MODELS = ("hosted-large", "hosted-small", "local-8b", "local-70b")
_SENTENCES = (
    "The invoice {n} was sent on the third of the month and has not been paid since.",
    "A payment of {n} euros arrived without a reference, so it could not be matched.",
    "We suggest a refund of {n} euros and a short letter that explains the delay.",
    "The discount was given twice, once in the shop and once by the branch office.",
    "Parcel {n} left the hub at noon and should reach the customer tomorrow.",
    "The warehouse in the north counts {n} cartons fewer than the records say.",
    "Our courier found the gate locked and will come back in the afternoon.",
    "One pallet was damaged by rain; {n} units have to be packed again.",
    "The password of account {n} was changed from an unknown address at night.",
    "The certificate of the gateway ends in {n} days and nobody owns its renewal.",
    "There is no sign of a breach, yet the access list was wider than it had to be.",
    "An audit of the last quarter asks for {n} more signatures.",
    "After the last deploy the page takes {n} milliseconds longer to appear.",
    "Median latency is unchanged, only the slowest hundredth of calls got worse.",
    "The database answered {n} queries a second before the index was rebuilt.",
    "Release {n} mends the import of files whose names hold a blank.",
    "Three of the answers agree with each other, and the fourth names no source.",
    "The meeting was moved to Thursday because two of the authors are travelling.",
    "As a summary: the cause is known, the repair is small, the risk is low.",
    "Please note that the figures of week {n} are provisional and may still change.",
    "The customer asks for a call back before five and prefers to write in French.",
    "It would help to know which of the {n} templates was used for this letter.",
    "Compared with last year the number of complaints fell by {n} in a thousand.",
    "No further action is needed unless the light on the device turns amber.",
    "Room {n} stays closed until the floor has dried, which takes two days or so.",
    "Most readers stop after the second paragraph; the conclusion belongs further up.",
    "The translation keeps the tone of the original but shortens the middle part.",
    "Supplier {n} confirmed the new price in writing and asks for our signature.",
    "If the pump runs dry again, close the left valve first and wait a minute.",
    "The survey was answered by {n} people, a third of whom work at night.",
    "Its author expects that demand doubles by spring, without saying why.",
    "Temperature in the cold room rose to {n} tenths of a degree above the limit.",
    "Nothing in the contract speaks against a second delivery on the same day.",
    "A draft of the reply is attached; it names {n} reasons and one way out.",
)


def document(index: int, priority: str | None = None) -> bytes:
    """Document number `index` as JSON text. `priority` replaces its own."""
    chance = random.Random(index)
    sentences: list[str] = []
    size = 0
    for sentence in chance.sample(_SENTENCES, len(_SENTENCES)):
        sentences.append(sentence.replace("{n}", str(chance.randrange(10, 99_999))))
        size += len(sentences[-1]) + 1
        if size >= _MIN_CONTENT:
            break
    own = chance.choices(list(_PRIORITIES), list(_PRIORITIES.values()))[0]
    metadata = {"source": chance.choice(_SOURCES), "model": chance.choice(_MODELS), "tokens": size // 4}
    if priority or own:
        metadata["priority"] = priority or own
    return json.dumps(
        {"id": f"doc-{index:07d}", "content": " ".join(sentences), "metadata": metadata}, separators=(", ", ": ")
    ).encode()


def write(folder: str, count: int, *, first: int = 0, per_folder: int = 1000, priority: str | None = None) -> list[str]:
    """Write `count` documents into subfolders of `folder`. Returns the subfolders' names."""
    names: list[str] = []
    for index in range(count):
        if index % per_folder == 0:
            names.append(f"d{index // per_folder:03d}")
            os.makedirs(os.path.join(folder, names[-1]))
        with open(os.path.join(folder, names[-1], f"doc-{first + index:07d}.json"), "wb") as file:
            file.write(document(first + index, priority))
    return names
