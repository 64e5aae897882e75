"""`make chaos ARGS="--seed 7 --faults 200"`.

Prints a ledger as it goes. Servers, workers and their logs are below --directory, and stay there if
something was not as it must be.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from support.chaos.play import play
from support.chaos.schedule import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--directory", type=Path, help="default: a temporary one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no process behind
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        print(play(arguments.seed, arguments.faults, directory, arguments.kinds))
    except BaseException:
        print(f"logs: {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
