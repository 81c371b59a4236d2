"""What is to be had over HTTP, and who answers it.

/healthz            the event loop lives          /readyz             the broker serves, or what it is doing
/                   this list
"""

from __future__ import annotations

from kbroker.http.health import Life, health, readiness
from kbroker.http.messages import Answer, Refused, Request, shown

INDEX = b"""\
/healthz  whether the broker lives
/readyz   whether it serves
"""


class Paths:
    """Answers requests about one broker."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def answer(self, request: Request) -> Answer:
        """The answer. Raises Refused."""
        match request.path:
            case ("",):
                return Answer(INDEX)
            case ("healthz",):
                return health()
            case ("readyz",):
                return readiness(self._life)
        raise Refused(404, f"there is no {shown('/' + '/'.join(request.path))} here; / lists what there is")
