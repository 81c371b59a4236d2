"""The process of a broker: `start`, `config`."""
