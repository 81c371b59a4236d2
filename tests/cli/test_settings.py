"""`kbroker config docs` and `kbroker config check`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from kbroker.cli import cli

SERVER_PROPERTIES = Path(__file__).parent.parent / "data" / "server.properties"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments])


def test_docs() -> None:
    text = invoke("docs", "retention.ms").stdout
    assert "retention.ms (topic, LONG)" in text
    assert "default   604800000" in text
    assert "else      log.retention.ms, then log.retention.minutes, then log.retention.hours of the broker" in text
    both = invoke("docs", "min.insync.replicas").stdout
    assert "(topic, INT)" in both
    assert "(broker, INT)" in both


def test_docs_of_what_is_not_there() -> None:
    result = invoke("docs", "num.partition")
    assert result.exit_code == 2
    assert result.stderr == "kbroker: unknown config num.partition, did you mean num.partitions?\n"


def test_docs_lists_all() -> None:
    lines = invoke("docs").stdout.splitlines()
    assert any(line.split() == ["num.partitions", "broker", "1"] for line in lines)
    assert len(lines) > 300


def test_check(tmp_path: Path) -> None:
    good = invoke("check", str(SERVER_PROPERTIES))
    assert good.exit_code == 0
    assert "no mistakes" in good.stdout
    assert "warning: listener CONTROLLER is not opened" in good.stderr
    bad = tmp_path / "k.toml"
    bad.write_text("num.partitions = 0")
    result = invoke("check", str(bad))
    assert result.exit_code == 2
    assert result.stderr.startswith(f'kbroker: {bad}: num.partitions: "0" is not allowed: expected a whole number')
