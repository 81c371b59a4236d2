"""`--listen` and `--advertise`, each once a listener, into configs.

--listen 9092  :9092  h:9092  [::1]:9092      PLAINTEXT://HOST:PORT; a bare port is of 127.0.0.1, ":PORT" of all
--listen INSIDE=:19092                        INSIDE://:19092, and INSIDE speaks PLAINTEXT unless it is mapped
--advertise INSIDE=broker:19092               what clients of INSIDE are told
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import click

from kbroker.env import address_text

PLAINTEXT = "PLAINTEXT"
NOT_SPOKEN = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
MAP = "listener.security.protocol.map"


class Endpoint(NamedTuple):
    """What one flag says."""

    name: str  # "" where it says none
    host: str  # "": every interface
    port: int

    @property
    def address(self) -> str:
        """HOST:PORT, an address of IPv6 in brackets."""
        return address_text(self.host, self.port)

    @property
    def text(self) -> str:
        """As Kafka writes it: NAME://HOST:PORT."""
        return f"{self.name or PLAINTEXT}://{self.address}"


def listener_configs(listens: Sequence[str], advertises: Sequence[str]) -> dict[str, str]:
    """The configs that these flags stand for. Raises UsageError."""
    listening = [_endpoint("--listen", text) for text in listens]
    advertised = [_endpoint("--advertise", text) for text in advertises]
    for flag, endpoints in (("--listen", listening), ("--advertise", advertised)):
        _refuse_twice(flag, endpoints)
    if listening:
        _refuse_strangers(advertised, [each.name or PLAINTEXT for each in listening])
    configs = {"listeners": listening, "advertised.listeners": advertised}
    return {name: ",".join(each.text for each in endpoints) for name, endpoints in configs.items() if endpoints}


def plain_protocols(listens: Iterable[str]) -> Callable[[Mapping[str, object]], dict[str, str]]:
    """Who derives the protocols of listeners that `--listen` names: PLAINTEXT, where the map does not speak of them."""
    names = {endpoint.name for endpoint in (_endpoint("--listen", text) for text in listens) if endpoint.name}

    def derive(given: Mapping[str, object]) -> dict[str, str]:
        from kbroker.config import TABLE, Scope
        from kbroker.config.checks import parse_protocol_map

        known = str(given.get(MAP, TABLE[Scope.BROKER][MAP].default))
        added = sorted(names - set(parse_protocol_map(known)))
        return {MAP: ",".join([known, *(f"{name}:{PLAINTEXT}" for name in added)])} if added else {}

    return derive


def host_and_port(text: str) -> tuple[str, int]:
    """ "localhost:9092", ":9092", "9092" (both: every interface, or 127.0.0.1 for a bare port), "[::1]:9092".

    Raises ValueError (Unfit).
    """
    from kbroker.config.checks import parse_endpoint

    return parse_endpoint(text if ":" in text or not text.isdecimal() else f"127.0.0.1:{text}")


def _endpoint(flag: str, text: str) -> Endpoint:
    from kbroker.config.checks import listener_name

    name, equals, address = text.rpartition("=")
    try:
        named = listener_name(name) if equals else ""
        endpoint = Endpoint(named, *host_and_port(address.strip()))
    except ValueError as error:
        way = f": write {text.replace('://', '=', 1)}" if "://" in text else f": {error}"
        raise click.UsageError(f"{flag} {text!r} is not HOST:PORT or NAME=HOST:PORT{way}") from None
    if named in NOT_SPOKEN:
        raise click.UsageError(
            f"{flag} {text!r}: {named} names a protocol that kbroker does not speak yet; what it speaks is PLAINTEXT, "
            f"under any other name: EXTERNAL={address}"
        )
    return endpoint


def _refuse_twice(flag: str, endpoints: Sequence[Endpoint]) -> None:
    for n, endpoint in enumerate(endpoints):
        name = endpoint.name or PLAINTEXT
        if name not in (other.name or PLAINTEXT for other in endpoints[:n]):
            continue
        if endpoint.name:
            raise click.UsageError(f"{flag} names {name} twice")
        raise click.UsageError(
            f"{flag} is given twice without a name, which is PLAINTEXT: name one, as {flag} EXTERNAL={endpoint.address}"
        )


def _refuse_strangers(advertised: Sequence[Endpoint], names: Sequence[str]) -> None:
    """What is advertised is of a listener."""
    for endpoint in advertised:
        if (endpoint.name or PLAINTEXT) in names:
            continue
        if endpoint.name:
            way = f"there is no listener {endpoint.name}: add --listen {endpoint.name}=HOST:PORT"
        else:
            way = f"say which listener it is of, as {names[0]}={endpoint.address}"
        shown = f"{endpoint.name}={endpoint.address}" if endpoint.name else endpoint.address
        raise click.UsageError(f"--advertise {shown}: {way}")
