"""The real command line, except that `up` starts processes without a model."""

import functools
import sys
from pathlib import Path

from baton.__main__ import main
from baton.commands import up

FAKE_PROGRAM = (sys.executable, str(Path(__file__).parent / "fake_process.py"))

if __name__ == "__main__":
    up.LocalCluster = functools.partial(up.LocalCluster, program=FAKE_PROGRAM)  # type: ignore
    main()
