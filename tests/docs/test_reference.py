"""What the docs say is what the code has."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_page_is_what_the_code_says() -> None:
    command = [sys.executable, "tools/reference.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert result.returncode == 0, "run: python tools/reference.py"


def test_every_error_code_of_the_gateway_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference.md").read_text()
    used = set()
    for path in (ROOT / "gateway").glob("*.py"):
        used |= set(re.findall(r'code="([a-z_]+)"', path.read_text()))
    assert used
    assert not {code for code in used if f"`{code}`" not in page}


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
