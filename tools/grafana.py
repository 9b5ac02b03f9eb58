"""Writes the Grafana dashboards of deploy/grafana/ and the chart's copies of them.

python tools/grafana.py          writes them
python tools/grafana.py --check  fails when a file differs
"""

import json
import sys
from pathlib import Path

from boards import overview, planner, pools, routing, tenants, transfers
from boards.panel import Board, as_json

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "deploy" / "grafana", ROOT / "deploy" / "helm" / "baton" / "dashboards")
BOARDS: tuple[Board, ...] = tuple(
    module.BOARD for module in (overview, pools, transfers, routing, planner, tenants)
)


def files() -> dict[Path, str]:
    """Every file that there should be, with its text."""
    texts = {
        f"{board.uid}.json": json.dumps(as_json(board), indent=2, ensure_ascii=False) + "\n"
        for board in BOARDS
    }
    return {folder / name: text for folder in FOLDERS for name, text in texts.items()}


def main() -> int:
    wanted = files()
    there = {path for folder in FOLDERS for path in folder.glob("baton-*.json")}
    if "--check" in sys.argv:
        return int(
            there != set(wanted) or any(path.read_text() != text for path, text in wanted.items())
        )
    for path in there - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
