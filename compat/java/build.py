"""Fetches kafka-clients of one version with Maven and compiles the adapter against it: `build.py VERSION CACHE`.

Owns: `jars-<version>` and `classes-<version>` in CACHE, made again when `Adapter.java` has changed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from apache_kafka import LOGGING, Unavailable, fetch_jars  # noqa: E402 - it is run without PYTHONPATH


def classpath(version: str, cache: Path) -> str:
    return f"{cache / f'classes-{version}'}:{cache / f'jars-{version}' / '*'}"


def main() -> None:
    version, cache, source = sys.argv[1], Path(sys.argv[2]), HERE / "Adapter.java"
    wanted = [f"org.apache.kafka:kafka-clients:{version}", "com.google.code.gson:gson:2.11.0", LOGGING]
    jars, classes = fetch_jars(wanted, cache / f"jars-{version}"), cache / f"classes-{version}"
    made = classes / "Adapter.class"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["javac", "-nowarn", "-cp", jars, "-d", str(classes), str(source)], check=True, timeout=120)


if __name__ == "__main__":
    try:
        main()
    except (Unavailable, subprocess.SubprocessError) as reason:
        sys.exit(str(reason))
