"""Files that people write, and commands read whole: a broker's configuration (`-c FILE`), a seed, client properties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kbroker.cli.errors import Misconfigured

TEXT_CHARACTERS_MAX = 64_000_000  # a seed may have many records; a device has no end


def config_option(text: str) -> Callable[[Any], Any]:
    """-c, the configuration of a broker, as `file`. text: its help."""
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="KBROKER_CONFIG",
        help=text,
    )


def read_config_file(file: Path) -> dict[str, str]:
    """The names and values in a configuration file. Raises Misconfigured, or ConfigError for TOML that is none."""
    from kbroker.config import read_file

    return read_file(read_text(file), str(file))


def read_text(file: Path) -> str:
    """What is in it. Raises Misconfigured."""
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read(TEXT_CHARACTERS_MAX + 1)
    except OSError as error:
        raise Misconfigured(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{file} is not text in UTF-8") from None
    if len(text) > TEXT_CHARACTERS_MAX:
        raise Misconfigured(f"{file} is too large to be read: it has more than {TEXT_CHARACTERS_MAX:,} characters")
    return text
