"""`baton doctor` about what a cluster may use beside its own processes."""

from pathlib import Path

from baton.checks.check import State
from baton.checks.services import Services, check_services


def found(**given: str) -> dict[str, tuple[State, str]]:
    return {c.name: (c.state, c.detail) for c in check_services(Services(**given))}


def test_a_redis_that_answers_is_told_and_one_that_does_not_is_a_warning(redis_server):
    assert found(redis_url=redis_server.url)["Redis"][0] is State.OK
    redis_server.stop()
    state, why = found(redis_url=redis_server.url)["Redis"]
    assert state is State.WARNING and "does not answer" in why


def test_what_is_not_configured_says_what_happens_instead(tmp_path: Path):
    checks = found(kubeconfig=str(tmp_path / "none"))
    assert {name for name, (state, _) in checks.items() if state is State.ABSENT} >= {
        "Redis",
        "Kubernetes",
        "TLS",
        "Prometheus",
    }
    assert "state stays in memory" in checks["Redis"][1]


def test_files_that_are_no_certificate_and_a_silent_prometheus_are_warnings(tmp_path: Path):
    no_certificate = tmp_path / "server.pem"
    no_certificate.write_text("nothing")
    checks = found(tls_certificate=str(no_certificate), prometheus_url="http://127.0.0.1:1")
    assert checks["TLS"][0] is State.WARNING and str(no_certificate) in checks["TLS"][1]
    assert checks["Prometheus"][0] is State.WARNING


def test_installed_packages_are_told_with_their_version():
    state, detail = found()["OpenTelemetry"]
    assert state is State.OK and "opentelemetry-sdk" in detail
