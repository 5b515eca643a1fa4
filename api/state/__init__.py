"""How is the system? One answer for `/health`, `/ready`, `/hosts`, `/metrics`, `llmctl status` and the autoscaler."""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
