"""The pages that explain requests."""

from dataclasses import replace

import pytest

from gateway.tenants import Tenant
from gateway.trace_list import trace_list
from router.output import CandidateTrace, RequestTrace
from router.policies.policy import Forecast

FORECAST = Forecast(ttft_s=0.5, tpot_s=0.01)
TRACE = RequestTrace(
    "remote", "p0", "d0", 1, outcome="length", ttft_s=0.6, predicted=FORECAST,
    candidates=(CandidateTrace("p0", "d0", FORECAST),),
)  # fmt: skip


async def test_it_tells_how_an_ended_request_ran_and_what_was_predicted(start_gateway):
    async with start_gateway(lambda _: []) as gateway:
        gateway.router.trace = {"chatcmpl-1": TRACE}.get
        body = (await gateway.client.get("/debug/requests/chatcmpl-1")).json()
        assert body["id"] == "chatcmpl-1"
        assert body["predicted"]["ttft_s"] == 0.5
        assert body["candidates"][0]["decode_worker"] == "d0"


async def test_an_unknown_request_is_404(start_gateway):
    async with start_gateway(lambda _: []) as gateway:
        gateway.router.trace = {}.get
        response = await gateway.client.get("/debug/requests/none")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"


async def test_the_latest_and_the_slowest_requests_can_be_listed(start_gateway):
    async with start_gateway(lambda _: []) as gateway:
        for number, ttft_s in enumerate([0.2, 0.9, 0.4]):
            gateway.router.traces[f"r{number}"] = replace(TRACE, ttft_s=ttft_s)
        body = (await gateway.client.get("/debug/requests")).json()
        assert [entry["id"] for entry in body["requests"]] == ["r2", "r1", "r0"]
        assert body["requests"][0]["predicted"]["ttft_s"] == 0.5
        answer = await gateway.client.get("/debug/requests?order=slowest&limit=2")
        assert [entry["id"] for entry in answer.json()["requests"]] == ["r1", "r2"]


@pytest.mark.parametrize("query", ["order=best", "limit=0", "limit=1001", "limit=x"])
async def test_a_bad_question_is_refused_by_name(start_gateway, query):
    async with start_gateway(lambda _: []) as gateway:
        answer = await gateway.client.get(f"/debug/requests?{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_a_tenant_sees_its_own_requests_alone():
    class Source:
        def recent_traces(self, count, slowest):
            return [("a", replace(TRACE, tenant="acme")), ("b", replace(TRACE, tenant="other"))]

    shown = trace_list(Source(), {}, Tenant("acme"))
    assert [entry["id"] for entry in shown["requests"]] == ["a"]
