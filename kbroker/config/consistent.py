"""What no single key can tell: whether a broker's values fit together. Each fault names the culprit and the way."""

from __future__ import annotations

from collections.abc import Sequence

from kbroker.config.checks import ListenerAddress, parse_listener, parse_protocol_map
from kbroker.config.keys import ConfigError
from kbroker.config.values import WILDCARDS, BrokerConfig

MAP = "listener.security.protocol.map"


def check_consistent(config: BrokerConfig) -> None:
    """Raises ConfigError."""
    if config.is_set("node.id") and config.is_set("broker.id") and config.get("broker.id") not in (-1, config.node_id):
        raise ConfigError(
            f"node.id is {config.get('node.id')} and broker.id is {config.get('broker.id')}: they must agree"
        )
    roles = config.get_list("process.roles")
    if roles and "broker" not in roles:
        raise ConfigError(
            f"process.roles is {','.join(roles)}: kbroker is broker and controller in one process, "
            "so what is a controller only has no use and is to be left out"
        )
    _check_listeners(config)
    _check_advertised(config, {address.name for address in config.listeners})
    _check_inter_broker(config)
    _check_etcd(config)


def _check_listeners(config: BrokerConfig) -> None:
    listeners = config.listeners
    if not listeners:
        raise ConfigError(
            f"listeners: {config.get_str('listeners')} has no listener for clients: "
            "those that controller.listener.names names are not opened"
        )
    protocols = parse_protocol_map(config.get_str(MAP))
    for name in (address.name for address in listeners):
        protocol = protocols.get(name)
        if protocol is None:
            raise ConfigError(f"listeners: {name} has no entry in {MAP}, such as {name}:PLAINTEXT")
        if protocol != "PLAINTEXT":
            raise ConfigError(
                f"listeners: {name} would speak {protocol}; kbroker speaks only PLAINTEXT so far: "
                f"leave {name} out, or let {MAP} say {name}:PLAINTEXT"
            )
    _check_ports(listeners)


def _check_ports(listeners: Sequence[ListenerAddress]) -> None:
    """Two listeners at one port, unless they have addresses of their own."""
    for n, one in enumerate(listeners):
        for other in listeners[:n]:
            if one.port and one.port == other.port and _meet(one.host, other.host):
                raise ConfigError(
                    f"listeners: {other.name} and {one.name} both want port {one.port}: give {one.name} another one"
                )


def _meet(one: str, other: str) -> bool:
    """Whether sockets bound to the two hosts are in each other's way at one port. "0.0.0.0" is of IPv4 alone."""
    if one == other or "" in (one, other) or "::" in (one, other):
        return True
    return "0.0.0.0" in (one, other) and ":" not in one + other


def _check_advertised(config: BrokerConfig, names: set[str]) -> None:
    controllers = {name.upper() for name in config.get_list("controller.listener.names")}
    for address in (parse_listener(item) for item in config.get_list("advertised.listeners")):
        if address.name not in names and address.name not in controllers:
            raise ConfigError(
                f"advertised.listeners: {address.name} is not one of listeners, which has {', '.join(sorted(names))}"
            )
        if address.host and is_wildcard(address.host):
            raise ConfigError(
                f'advertised.listeners: "{address.host}" is no address that a client can connect to: '
                f"give the name by which clients of {address.name} reach this machine"
            )
        if not address.port:
            raise ConfigError(f"advertised.listeners: {address.name} has port 0, which no client can connect to")
    told = config.advertised_listeners
    for name, host, _ in config.listeners if config.store.engine == "etcd" else ():
        if host in WILDCARDS and not told.get(name, ("", 0))[0]:
            raise ConfigError(
                f"advertised.listeners: brokers of other machines cannot be told where {name} is: "
                f'its address in listeners, "{host}", stands for every one of this machine'
            )


def is_wildcard(host: str) -> bool:
    """Whether a host stands for every address of a machine, however it is written: "0.0.0.0", "0", "::", "0::0"."""
    return not host.strip("0:.")


def _check_inter_broker(config: BrokerConfig) -> None:
    inter_broker = config.get_str("inter.broker.listener.name").upper()
    if inter_broker and config.is_set("security.inter.broker.protocol"):
        raise ConfigError(
            "inter.broker.listener.name and security.inter.broker.protocol are both set: one chooses the listener"
        )
    if inter_broker and inter_broker not in {address.name for address in config.listeners}:
        raise ConfigError(f"inter.broker.listener.name: {inter_broker} is not one of listeners")


def _check_etcd(config: BrokerConfig) -> None:
    for one, other in (("user", "password"), ("tls.certificate", "tls.key")):
        if bool(config.get_str(f"kbroker.etcd.{one}")) != bool(config.get_str(f"kbroker.etcd.{other}")):
            raise ConfigError(f"kbroker.etcd.{one} and kbroker.etcd.{other} belong together: set both, or none")
    tls = next((name for name in ("ca", "certificate") if config.get_str(f"kbroker.etcd.tls.{name}")), None)
    if tls and config.store.engine == "etcd" and not config.store.is_tls:
        raise ConfigError(f"kbroker.etcd.tls.{tls} is set, and {config.store.text} is without TLS: write etcds://")
