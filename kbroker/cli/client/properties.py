"""Client properties of -X and --command-config: names of Java's client or librdkafka, values as kafka-python has them.

kafka-python takes any value for any setting, and falls over it later, or waits for ever. So what it is to be is read
from its defaults: a number, true or false, or text.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kbroker.cli.errors import Misconfigured
from kbroker.cli.files import read_text

# Names of the Java client and librdkafka whose kafka-python name is not simply the same with underscores.
_RENAMED = {
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
_FILES = {"ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"}
_NUMBERS = {"send_buffer_bytes", "receive_buffer_bytes"}  # without a default
_OBJECTS = {  # of Python, which no text can be
    "api_version", "key_deserializer", "key_serializer", "value_deserializer", "value_serializer",
    "sasl_oauth_token_provider", "ssl_context",
}  # fmt: skip
_ACKS = {"all": "all", "-1": -1, "0": 0, "1": 1}


def client_properties(settings: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Settings of kafka-python. Raises UsageError, Misconfigured, which name the property."""
    from kbroker.config import read_properties

    named: dict[str, str] = {}
    if file is not None:
        named.update(read_properties(read_text(file)))
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"-X {text!r} is not NAME=VALUE")
        named[name.strip()] = value.strip()
    if not named:
        return {}
    known = _defaults()
    return {python_name(name): _typed(name, value, known) for name, value in named.items()}


def python_name(name: str) -> str:
    """What kafka-python calls it."""
    return _RENAMED.get(name, name.replace(".", "_"))


def _defaults() -> Mapping[str, Any]:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

    all_of_them = (each.DEFAULT_CONFIG.items() for each in (KafkaAdminClient, KafkaConsumer, KafkaProducer))
    return dict(itertools.chain(*all_of_them))


def _typed(name: str, text: str, defaults: Mapping[str, Any]) -> Any:
    """A value of the kind the default is of. Of what kafka-python does not know it will complain itself."""
    setting = python_name(name)
    default = defaults.get(setting)
    if setting == "acks":
        return _one_of(name, text, _ACKS)
    if isinstance(default, bool):
        return _one_of(name, text.lower(), {"true": True, "false": False})
    if isinstance(default, int | float) or setting in _NUMBERS:
        if not text.isdecimal() or len(text) > 15:
            raise Misconfigured(f"{name}: {text!r} is no number from 0 on")
        return int(text)
    if setting in _OBJECTS or not isinstance(default, str | None):
        raise Misconfigured(f"{name} cannot be set here: it takes no text")
    if setting in _FILES and not Path(text).is_file():  # kafka-python would say that there is no broker
        raise Misconfigured(f"{name}: there is no file {text}")
    return text


def _one_of(name: str, text: str, values: Mapping[str, Any]) -> Any:
    if text not in values:
        raise Misconfigured(f"{name}: {text!r} is none of {', '.join(values)}")
    return values[text]
