"""Headers that tell the router what a request was promised."""

import pytest

from gateway.errors import ApiError
from gateway.tenants import ANYONE, Tenant, TenantFileError, key_digest, read_tenants
from gateway.terms import asked_keep_s, asked_terms


def test_objectives_and_session_come_from_headers_and_the_weight_from_the_tenant():
    headers = [
        (b"x-baton-ttft-ms", b"750"),
        (b"x-baton-tpot-ms", b"12.5"),
        (b"x-baton-session", b"chat-1"),
    ]
    terms = asked_terms(headers, Tenant("acme", weight=3.0), "llama")
    assert (terms.ttft_slo_s, terms.tpot_slo_s) == (0.75, 0.0125)
    assert (terms.tenant, terms.weight, terms.model) == ("acme", 3.0, "llama")
    assert terms.session and terms.session != asked_terms(headers, Tenant("evil"), "llama").session


def test_without_headers_the_routers_own_objectives_hold():
    terms = asked_terms([], ANYONE, "")
    assert (terms.ttft_slo_s, terms.tpot_slo_s, terms.session) == (0.0, 0.0, "")


@pytest.mark.parametrize("value", [b"", b"soon", b"0", b"-5", b"nan", b"inf", b"3600001"])
@pytest.mark.parametrize("header", [b"x-baton-ttft-ms", b"x-baton-tpot-ms"])
def test_an_objective_that_is_no_time_is_refused_by_name(header, value):
    with pytest.raises(ApiError, match=header.decode()) as refusal:
        asked_terms([(header, value)], ANYONE, "")
    assert refusal.value.status == 400 and refusal.value.param == header.decode()


def test_a_session_is_kept_as_long_as_the_header_says():
    assert asked_keep_s([(b"x-baton-keep-s", b"90.5")]) == 90.5
    assert asked_keep_s([]) == 0.0


@pytest.mark.parametrize("value", [b"", b"long", b"0", b"-5", b"nan", b"inf", b"3601"])
def test_a_time_to_keep_that_is_no_time_is_refused_by_name(value):
    with pytest.raises(ApiError, match="x-baton-keep-s must be a number of seconds") as refusal:
        asked_keep_s([(b"x-baton-keep-s", value)])
    assert refusal.value.status == 400 and refusal.value.param == "x-baton-keep-s"


def test_a_session_name_is_bounded():
    with pytest.raises(ApiError, match="at most 256"):
        asked_terms([(b"x-baton-session", b"x" * 257)], ANYONE, "")


@pytest.mark.parametrize("weight", ["0", "-1", "1e9", "nan"])
def test_a_weight_out_of_range_is_refused(tmp_path, weight):
    path = tmp_path / "tenants.toml"
    path.write_text(
        f'[[tenants]]\nname = "a"\nkey_sha256 = ["{key_digest("k")}"]\nweight = {weight}\n'
    )
    with pytest.raises(TenantFileError, match="the weight of a"):
        read_tenants(path)
