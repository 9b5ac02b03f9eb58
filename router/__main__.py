"""`python -m router`: settings from BATON_* variables and a TOML file; `baton router` has flags."""

import sys
from pathlib import Path

from router.process import run
from router.server_config import RouterServerConfig
from runtime.settings import SettingsError, load


def main(arguments: list[str]) -> int:
    """arguments: none, or the settings file whose [router] table counts."""
    if len(arguments) > 1:
        print("usage: python -m router [SETTINGS.toml]", file=sys.stderr)
        return 2
    file = Path(arguments[0]) if arguments else None
    try:
        config = load(RouterServerConfig, {}, file=file, table="router")
    except SettingsError as error:
        print(f"router: {error}", file=sys.stderr)
        return 2
    return run(config)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
