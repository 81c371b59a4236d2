"""What is said when a broker, or several, are ready: a few lines for people on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from kbroker import __version__
from kbroker.env import address_text

WILDCARDS = ("0.0.0.0:", "[::]:")
_IMPORTED_AT = time.monotonic()


def banner(
    who: str,
    place: str,
    addresses: Sequence[str],
    took: str,
    further: Sequence[str] = (),
    url: str = "",
    advertised: Sequence[str] = (),
) -> str:
    """The lines. who: "node 1"; place: the data directory in words; further: commands of ours to try besides the first.

    url: of metrics and health. advertised: what clients are told, where that is not where it listens.
    """
    bold, plain = ("", "") if "NO_COLOR" in os.environ else ("\x1b[1m", "\x1b[0m")
    option = bootstrap_option(addresses)
    own = own_command()
    tries = [f"echo hi | {own} topic produce{option} demo", *(f"{own} {command}{option}" for command in further)]
    lines = [
        f"{bold}kbroker {__version__}{plain}, {who}",
        f"  data       {place}",
        f"  listening  {', '.join(addresses)}",
        *([f"  advertised {', '.join(advertised)}"] if advertised else []),
        *([f"  metrics    {url}metrics"] if url else []),
        f"  try        {tries[0]}",
        *(f"             {command}" for command in tries[1:]),
        f"{bold}{took}{plain} (CTRL+C to quit)",
    ]
    return "\n".join(lines)


def advertised_texts(bound: Mapping[str, tuple[str, int]], told: Mapping[str, tuple[str, int]]) -> list[str]:
    """The addresses that clients are told which are not those bound; of several listeners each with its name.

    told: host "" is the address by which a client came, of which there is nothing to say.
    """
    others = {name: address_text(*address) for name, address in told.items() if address[0] and address != bound[name]}
    return [f"{address} ({name})" if len(bound) > 1 else address for name, address in others.items()]


def own_command() -> str:
    """How this program is called here: "kbroker" if the shell finds it by that name, else with its path."""
    called = sys.argv[0]
    if called.endswith(os.path.join("kbroker", "__main__.py")):
        return f"{_shown(sys.executable)} -m kbroker"
    if os.path.basename(called) != "kbroker":  # within another program
        return "kbroker"
    on_path = [os.path.join(place, "kbroker") for place in os.environ.get("PATH", "").split(os.pathsep)]
    first = next((path for path in on_path if os.access(path, os.X_OK)), None)
    return "kbroker" if first and os.path.realpath(first) == os.path.realpath(called) else _shown(called)


def _shown(path: str) -> str:
    """A path from where we are, if that is shorter: a virtual environment is mostly near."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # where we are has been removed
        return path
    return min(relative if os.sep in relative else os.path.join(os.curdir, relative), path, key=len)


def bootstrap_option(addresses: Sequence[str]) -> str:
    """ " -b HOST:PORT" for a client on this machine; "" where it finds the broker by itself."""
    return "" if addresses[0].endswith(":9092") else f" -b {near(addresses[0])}"


def near(address: str) -> str:
    """The address by which a client on this machine comes in, where a broker listens on this one."""
    return f"localhost:{address.rpartition(':')[2]}" if address.startswith(WILDCARDS) else address


def address_of(text: str) -> tuple[str, int]:
    """What address_text has made."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def seconds_since_start() -> float:
    """How long this process has run: since the system started it where that can be known, else since the import."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # starttime, field 22, after the command's name
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED_AT
