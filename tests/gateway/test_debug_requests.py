"""The page that explains one request."""

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
