"""Text into configuration: server.properties, TOML, the environment, flags. Reading the files is the caller's.

Precedence, the closest first: flags, KBROKER_* variables, KAFKA_* variables, the file, the defaults. Variables are
named as in the apache/kafka container image: NUM_PARTITIONS is num.partitions; `__` stands for `_`, `___` for `-`.
Another widespread image writes KAFKA_CFG_ for KAFKA_; both are understood, the longer one first.

Durations and sizes may have units (7d, 64MiB) in flags, TOML and the environment; a properties file is Kafka's, and
exact. An unknown name is an error in a file or a flag. In the environment a KBROKER_* name that nobody knows gets a
warning; a KAFKA_* name only when it looks like a misspelling, for other programs have variables of that kind too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from kbroker.config.consistent import check_consistent
from kbroker.config.keys import NUMBERS, ConfigError, Scope, Value, parse
from kbroker.config.table import TABLE, did_you_mean, find, is_ignored
from kbroker.config.values import BrokerConfig, Setting, Source

# Of the command line (kbroker.cli), of container images and of Java: not configuration of a broker.
NOT_CONFIG = frozenset(
    {
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_BROKERS",
        "KAFKA_CLUSTER_ID",
        "KAFKA_DEBUG",
        "KAFKA_GC_LOG_OPTS",
        "KAFKA_HEAP_OPTS",
        "KAFKA_HOME",
        "KAFKA_JMX_HOSTNAME",
        "KAFKA_JMX_OPTS",
        "KAFKA_JMX_PORT",
        "KAFKA_JVM_PERFORMANCE_OPTS",
        "KAFKA_LOG4J_LOGGERS",
        "KAFKA_LOG4J_OPTS",
        "KAFKA_LOG4J_ROOT_LOGLEVEL",
        "KAFKA_OPTS",
        "KAFKA_TOOLS_LOG4J_LOGLEVEL",
        "KAFKA_VERSION",
        "KBROKER_BROKERS",
        "KBROKER_CONFIG",
        "KBROKER_CONTAINER",
        "KBROKER_LOG_FORMAT",
        "KBROKER_LOG_LEVEL",
        "KBROKER_READY_FILE",
        "KBROKER_SEED",
    }
)


# From what is set, typed, to what else is to be, as text. It goes before what it names of the former.
Derive: TypeAlias = "Callable[[Mapping[str, Value]], Mapping[str, str]]"


def load(
    file: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    *,
    file_name: str = "the file",
    derived: Mapping[str, Derive] | None = None,
) -> BrokerConfig:
    """The configuration of a broker.

    file: what `read_properties` or `read_toml` returned; env: all environment variables; flags: config names and values
    from the command line; derived: who says what follows from all these, by what is told of where it came from.
    Warnings are in the result's `warnings`. Raises ConfigError.
    """
    warnings: list[str] = []
    settings = _from_names(file or {}, file_name, warnings)
    settings.update(_from_env(env or {}, "KAFKA_", warnings))
    settings.update(_from_env(env or {}, "KAFKA_CFG_", warnings))
    settings.update(_from_env(env or {}, "KBROKER_", warnings))
    settings.update(_from_names(_flags(flags or {}), "command line", warnings))
    for origin, derive in (derived or {}).items():
        given = {name: setting.value for name, setting in settings.items()}
        settings.update(_from_names(derive(given), origin, warnings))
    config = BrokerConfig({Source.STATIC_BROKER: settings})
    check_consistent(config)
    warnings.extend(_advice(config))
    return BrokerConfig({Source.STATIC_BROKER: settings}, warnings)


def read_file(text: str, name: str) -> dict[str, str]:
    """The names and values of a file: TOML when its name ends in .toml, else Java properties. Raises ConfigError."""
    return read_toml(text, name) if name.lower().endswith(".toml") else read_properties(text)


def read_toml(text: str, name: str = "the file") -> dict[str, str]:
    """TOML: dotted or quoted keys, tables; a list becomes a comma-separated text. Raises ConfigError."""
    try:
        tree = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not TOML: {error}") from None
    return {path: exact_text(path, value) for path, value in flatten_toml(tree)}


def parse_toml(text: str) -> dict[str, Any]:
    """What a file says. Raises ValueError for what is none, and for what tomllib cannot read: brackets in thousands of
    brackets, a number of thousands of digits."""
    import tomllib  # most brokers start without a TOML file

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("a value is nested too deeply") from None


def exact_text(name: str, text: str) -> str:
    """A value in which there may be a unit ("7d"), as the key counts it. Raises ConfigError."""
    key = TABLE[Scope.BROKER].get(name)
    if key is None or not text[-1:].isalpha() or key.type not in NUMBERS:
        return text
    from kbroker.config.units import exact  # most configurations need it not

    return exact(key, text)


def read_properties(text: str) -> dict[str, str]:
    r"""Java's .properties: `name=value`, `name: value` or `name value`; # and ! comments; `\` escapes and continues."""
    return {name: value for _, name, value in property_lines(text)}


def property_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Each property with the number of the line where it begins: (line, name, value)."""
    for number, line in _logical_lines(text):
        match = _PROPERTY.match(line)
        assert match is not None
        yield number, _unescape(match["name"]), _unescape(match["value"]).rstrip()


# A name ends at the first =, : or blank that is not escaped; blanks around one = or : belong to neither side.
_PROPERTY = re.compile(r"(?P<name>(?:\\.|[^\\=:\s])*)\s*[=:]?\s*(?P<value>.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    pending, began = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = pending + raw.lstrip()
        if not pending and (not line or line[0] in "#!"):
            continue
        began = began if pending else number
        if (len(line) - len(line.rstrip("\\"))) % 2:  # an odd number of backslashes: the line goes on
            pending = line[:-1]
            continue
        pending = ""
        yield began, line
    if pending:
        yield began, pending


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 5 else _CONTROL.get(m[1], m[1]), text)


def flatten_toml(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted names of a TOML tree with their values as text. Raises ConfigError for a value that is none."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flatten_toml(value, path + ".")
        elif isinstance(value, list):
            yield path, ",".join(_toml_text(path, item) for item in value)
        else:
            yield path, _toml_text(path, value)


def _toml_text(path: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{path}: {value!r} is not allowed: expected text, a number, true or false")


def _flags(flags: Mapping[str, str]) -> dict[str, str]:
    try:
        return {name: exact_text(name, text.strip()) for name, text in flags.items()}
    except ConfigError as error:
        raise ConfigError(f"command line: {error}") from None


def _from_names(values: Mapping[str, str], origin: str, warnings: list[str]) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for name, text in values.items():
        if name not in TABLE[Scope.BROKER] and is_ignored(name):
            warnings.append(f"{name} in {origin} is ignored: kbroker has no use for it")
            continue
        try:
            settings[name] = Setting(parse(find(Scope.BROKER, name), text), origin)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}{hint_at_units(name, text)}") from None
    return settings


def hint_at_units(name: str, text: str) -> str:
    """What to add where a value is refused only for its unit."""
    try:
        return "" if exact_text(name, text.strip()) == text else " (units are for TOML, flags and the environment)"
    except ConfigError:
        return ""


def _from_env(env: Mapping[str, str], prefix: str, warnings: list[str]) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for variable in sorted(env):
        if not variable.startswith(prefix) or not may_be_config(variable, env[variable]):
            continue
        if prefix == "KAFKA_" and variable.startswith("KAFKA_CFG_"):
            continue
        name = env_name(variable[len(prefix) :])
        if prefix == "KBROKER_" and name not in TABLE[Scope.BROKER]:
            name = f"kbroker.{name}" if f"kbroker.{name}" in TABLE[Scope.BROKER] else name
        if name in TABLE[Scope.BROKER]:
            try:
                text = exact_text(name, env[variable].strip())
                settings[name] = Setting(parse(TABLE[Scope.BROKER][name], text), variable)
            except ConfigError as error:
                raise ConfigError(f"{variable}: {error}") from None
        else:
            warnings.extend(_env_warning(variable, name, prefix))
    return settings


def may_be_config(variable: str, text: str) -> bool:
    """Whether a variable of these names could be meant for a broker. Kubernetes makes up some for each service, of
    which one may be called kafka, kbroker or kbroker-http: KAFKA_PORT=tcp://10.0.0.9:9092, KAFKA_SERVICE_HOST=10.0.0.9.
    """
    return variable not in NOT_CONFIG and not _SERVICE.search(variable) and not text.startswith(("tcp://", "udp://"))


_SERVICE = re.compile(r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")


def env_name(text: str) -> str:
    """NUM_PARTITIONS is num.partitions; `___` is a hyphen, `__` an underscore (apache/kafka image)."""
    return "-".join(
        "_".join(part.replace("_", ".") for part in piece.split("__")) for piece in text.split("___")
    ).lower()


def _env_warning(variable: str, name: str, prefix: str) -> list[str]:
    close = did_you_mean(Scope.BROKER, name)
    hint = f", did you mean {prefix}{close.upper().replace('.', '_')}?" if close else ""
    if prefix != "KBROKER_" and not close:
        return []
    return [f"environment variable {variable} is ignored: unknown config {name}{hint}"]


def _advice(config: BrokerConfig) -> Iterator[str]:
    """What is accepted but does not do what the file says."""
    all_names = [item.partition("://")[0].upper() for item in config.get_list("listeners")]
    ignored = [name for name in all_names if name not in {address.name for address in config.listeners}]
    if ignored:
        yield f"listener {', '.join(ignored)} is not opened: kbroker has no separate controllers"
    directories = config.get_list("log.dirs") or config.get_list("log.dir")
    if len(directories) > 1 and not config.is_set("kbroker.data.dir"):
        yield f"kbroker keeps one data directory: {directories[0]} is used, {', '.join(directories[1:])} are not"
