"""Many seeds, on all cores: `make simulate SEEDS=0-99`.

    python -m tests.simulation 0-99                     so many runs of clusters; exit status 1 when one failed
    python -m tests.simulation 17 --trace               one run, its events in .simulation/cluster-17.log
    python -m tests.simulation 0-9 --scenario transactions --seconds 20 --faults kill,pause

A seed that fails is told with the promise that was broken, and with how to run it again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kbroker.testing.world import simulate
from tests.simulation.runs import OFFLOAD_S, SLOW_OFFLOAD_S

SCENARIOS = {
    "cluster": "tests.simulation.cluster.scenario:cluster",
    "single": "tests.simulation.single_broker:single_broker",
    "transactions": "tests.simulation.transactions.scenario:transactions",
    "delays": "tests.simulation.delays.scenario:delays",
    "cluster-delays": "tests.simulation.delays.scenario:cluster_delays",
    "cluster-transactions": "tests.simulation.cluster.transactions:cluster_transactions",
}
TRACES = Path(".simulation")


class Result(NamedTuple):
    """What became of a seed."""

    seed: int
    seconds: float  # simulated
    wall_s: float
    hash: str  # "": it failed
    error: str
    story: str


def main() -> None:
    """Run the seeds that are asked for."""
    options = _options()
    jobs = min(options.jobs, len(options.seeds))
    work = partial(run_seed, options.scenario, seconds=options.seconds, faults=options.faults, trace=options.trace)
    failed: list[Result] = []
    begun, simulated, busy_s = time.perf_counter(), 0.0, 0.0
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(work, seed) for seed in options.seeds]):
            result = future.result()
            simulated, busy_s = simulated + result.seconds, busy_s + result.wall_s
            if options.trace:
                print(f"seed {result.seed}: {TRACES / f'{options.scenario}-{result.seed}.log'} {result.hash}")
            if not result.hash:
                failed.append(result)
                print(f"seed {result.seed} FAILED: {result.error}", flush=True)
                if len(options.seeds) == 1:
                    print(result.story)
    took = f"{simulated:.0f} s in {time.perf_counter() - begun:.0f} s"
    speed = f"{simulated / max(busy_s, 1e-9):.0f} times as fast as time on each of {jobs} cores"
    print(f"{len(options.seeds)} seeds, {len(failed)} failed; {took}, {speed}")
    for result in sorted(failed):
        again = " ".join([*_flags(options), str(result.seed)])
        print(f"  again: python -m tests.simulation {again} --trace")
    sys.exit(1 if failed else 0)


def run_seed(scenario: str, seed: int, *, seconds: float | None, faults: list[str] | None, trace: bool) -> Result:
    """One run, in this process."""
    module, _, name = SCENARIOS[scenario].partition(":")
    play = getattr(importlib.import_module(module), name)
    given: dict[str, Any] = {"seconds": seconds, "faults": faults}
    play = partial(play, **{key: value for key, value in given.items() if value is not None})
    begun = time.perf_counter()
    hash_, error, story, simulated = "", "", "", 0.0
    with ExitStack() as stack:
        on_line = None
        if trace:
            TRACES.mkdir(exist_ok=True)
            file = stack.enter_context((TRACES / f"{scenario}-{seed}.log").open("w"))
            on_line = partial(print, file=file)
        try:
            done = simulate(seed, play, on_line=on_line, offload_s=OFFLOAD_S if seed % 3 else SLOW_OFFLOAD_S)
            hash_, simulated = done.hash, done.seconds
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure} [{'; '.join(failure.__notes__)}]"
            story = "".join(traceback.format_exception(failure))
    return Result(seed, simulated, time.perf_counter() - begun, hash_, error, story)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Run scenarios by seed.")
    parser.add_argument("seeds", type=_seeds, help="one, or the first and the last: 0-99")
    parser.add_argument("--scenario", choices=SCENARIOS, default="cluster")
    parser.add_argument("--seconds", type=float, help="of faults (default: the scenario's)")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="kinds (default: at random, by seed)")
    parser.add_argument("--trace", action="store_true", help=f"write the events of each run into {TRACES}/")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _flags(options: argparse.Namespace) -> Iterable[str]:
    if options.scenario != "cluster":
        yield f"--scenario {options.scenario}"
    if options.seconds is not None:
        yield f"--seconds {options.seconds:g}"
    if options.faults is not None:
        yield f"--faults {','.join(options.faults)}"


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    main()
