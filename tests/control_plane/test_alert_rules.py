"""The shipped rules: valid, each alert with its unit test and its runbook, on declared metrics."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.metrics import ALL_METRICS, MetricSpec
from wire.messages import Role

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
TEXT = "".join((RULES / name).read_text() for name in ("recording.yaml", "alerts.yaml"))
ALERTS = re.findall(r"- alert: (\w+)", TEXT)
MAX_LABELS = 3


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_rules_are_valid_and_pass_their_unit_tests() -> None:
    for words in (
        ["check", "rules", "recording.yaml", "alerts.yaml"],
        ["test", "rules", "tests.yaml"],
    ):
        done = subprocess.run(
            ["promtool", *words], cwd=RULES, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test_that_fires_and_one_that_is_silent() -> None:
    tests = (RULES / "tests.yaml").read_text()
    for alert in ALERTS:
        assert f"- name: {alert} fires" in tests
        assert len(re.findall(rf"alertname: {alert}\b", tests)) >= 2


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    entries = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(ALERTS)


def test_the_rules_use_declared_metrics_alone() -> None:
    declared = {spec.name for spec in ALL_METRICS}
    used = set(re.findall(r"\bbaton_[a-z0-9_]+", TEXT))
    for name in used:
        assert name in declared or name.removesuffix("_bucket") in declared, name


@pytest.mark.parametrize("spec", ALL_METRICS, ids=lambda spec: spec.name)
def test_labels_are_few_and_never_of_a_request(spec: MetricSpec) -> None:
    assert len(spec.labels) <= MAX_LABELS
    for label in spec.labels:
        assert not re.search(r"(request|session|user|prompt|trace)", label), label


def test_a_role_label_has_the_roles_as_values() -> None:
    assert {role.value for role in Role} == {"prefill", "decode"}
