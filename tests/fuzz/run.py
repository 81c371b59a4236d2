"""Run the fuzz targets under Atheris: `python -m tests.fuzz.run --seconds 60 [target …]`.

    --seconds N       for each target (default 60)
    --corpus DIR      where inputs are kept between runs (default: nowhere); a crash is written there too
    --replay FILE     run one target on one file, without Atheris

Each target has a process of its own. Afterwards every input the fuzzer found worth keeping is run again under
tracemalloc and a clock: memory at most 4 times the input and 1 MiB, 50 ms. Needs `pip install atheris`, and a checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "protocol")]

RSS_MIB_MAX = 1024
INPUT_SECONDS_MAX = 5
REPLAY_MS_MAX = 50
REPLAY_BYTES_MAX = 1 << 20


def main() -> int:
    """Parse the command line; 0 when no target fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="all of them, when none is named")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return fuzz(options.targets[0], options.inside, options.seconds)

    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.replay:
        TARGETS[names[0]].run(options.replay.read_bytes())
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        failed = [name for name in names if not run_target(name, options.seconds, options.corpus or Path(scratch))]
    print("failed: " + ", ".join(failed) if failed else f"{len(names)} targets, no failure")
    return len(failed)


def run_target(name: str, seconds: int, corpus: Path) -> bool:
    """Write the seeds, fuzz in a process, replay what is left; whether all went well."""
    from tests.fuzz.targets import TARGETS

    inputs = corpus.resolve() / name
    inputs.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].seeds():
        (inputs / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    command = [sys.executable, "-m", "tests.fuzz.run", "--inside", str(inputs), "--seconds", str(seconds), name]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    dear = list(replay(TARGETS[name].run, inputs))
    print(f"{name}: exit {status}, {len(list(inputs.iterdir()))} inputs kept", *dear, sep="\n  ", flush=True)
    return status == 0 and not dear


def fuzz(name: str, inputs: Path, seconds: int) -> int:
    """In a process of its own: Atheris instruments the code under test and never returns."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["kafka_wire"]):
        from tests.fuzz import targets
    if name == "messages":
        instrument_codecs(atheris.instrument_func)
    target = targets.TARGETS[name]
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={target.bytes_max}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-rss_limit_mb={RSS_MIB_MAX}",
        f"-artifact_prefix={inputs.parent}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *flags, str(inputs)], target.run)
    atheris.Fuzz()
    return 0


def instrument_codecs(instrument: Callable[[object], object]) -> None:
    """The decoders are compiled on first use, out of sight of the import hook."""
    from kafka_wire import codegen
    from tests.fuzz.targets import PAIRS

    for cls, version in PAIRS:
        instrument(codegen.decoder(cls, version))


def replay(run: Callable[[bytes], None], inputs: Path) -> list[str]:
    """What is wrong with the inputs that take too long or too much."""
    wrong = []
    for path in sorted(inputs.iterdir()):
        data = path.read_bytes()
        run(data)  # compiles what is compiled on first use
        started = time.process_time()
        run(data)
        spent_ms = (time.process_time() - started) * 1000
        tracemalloc.start()
        run(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if spent_ms > REPLAY_MS_MAX or peak > 4 * len(data) + REPLAY_BYTES_MAX:
            wrong.append(f"{path}: {len(data)} bytes took {spent_ms:.0f} ms and {peak} bytes")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
