"""The operator API over HTTP, with a real registry and workers that obey orders."""

import json
from collections.abc import AsyncIterator, Callable

import httpx
import msgspec
import pytest
import pytest_asyncio
from operator_cluster import TOKEN, OperatedCluster, operated

from control_plane.api.shapes import (
    AuditView,
    DecisionsView,
    ErrorView,
    HistoryView,
    StatusView,
    WhatIfAnswer,
)
from control_plane.planner.config import PlannerConfig
from wire.cluster import Fingerprint, WorkerBeat
from wire.messages import Role

BeatOf = Callable[..., WorkerBeat]


def workers(beat_of: BeatOf, prefill: int, decode: int) -> list[WorkerBeat]:
    ids = [("prefill", i) for i in range(prefill)] + [("decode", i) for i in range(decode)]
    return [
        beat_of(f"{role}-{i}", role=Role(role), address=f"127.0.0.1:{7000 + i}") for role, i in ids
    ]


@pytest_asyncio.fixture
async def cluster(beat_of: BeatOf) -> AsyncIterator[OperatedCluster]:
    """2 prefill and 2 decode workers; the planner allows 1 to 3 and 1 to 8."""
    async with operated(workers(beat_of, 2, 2)) as cluster:
        yield cluster


def roles(cluster: OperatedCluster) -> list[str]:
    return sorted(role.value for role in cluster.server.serving().values())


def error_of(answer: httpx.Response) -> tuple[int, str, str, str]:
    error = msgspec.json.decode(answer.content, type=ErrorView).error
    assert error.message
    return answer.status_code, error.code, error.field, error.limit


async def test_the_status_shows_pools_workers_planner_and_leader(cluster: OperatedCluster):
    answer = await cluster.http.get("/api/v1/status")
    view = msgspec.json.decode(answer.content, type=StatusView)
    assert [(p.role, p.actual, p.desired, p.recommended) for p in view.pools] == [
        ("prefill", 2, 2, 1),
        ("decode", 2, 2, 2),
    ]
    assert [w.worker_id for w in view.workers] == ["decode-0", "decode-1", "prefill-0", "prefill-1"]
    assert {w.state for w in view.workers} == {"serving"}
    assert view.planner.mode == "act" and view.planner.serving == "hybrid"
    assert view.planner.alarms == ["one worker lies about its load"]
    assert view.leader.is_me and view.leader.backend == "none"
    assert view.model == "model" and view.actuator == "roster"
    assert view.notes == ["prefill: prefill-7: no memory for the weights"]


async def test_a_ratio_flips_the_workers_and_pins_the_sizes(cluster: OperatedCluster):
    answer = await cluster.act("ratio", {"prefill": 1, "decode": 3})
    assert answer.status_code == 200, answer.text
    assert answer.json()["plan"] == ["flip prefill-0 to decode"]
    await cluster.until(lambda: roles(cluster) == ["decode"] * 3 + ["prefill"])
    status = await cluster.get("status")
    pin = status["planner"]["pinned"]  # type: ignore[index]
    assert (pin["prefill"], pin["decode"]) == (1, 3)
    assert cluster.roster.recommended == (1, 3)
    await cluster.act("unpin")
    assert (await cluster.get("status"))["planner"]["pinned"] is None  # type: ignore[index]


async def test_a_ratio_splits_both_versions_of_a_roll_out_alike(beat_of: BeatOf):
    new = Fingerprint("model", "r2", "float32", 16, "L2H2B16D16:float32")
    beats = workers(beat_of, 0, 4) + [beat_of(f"new-{i}", fingerprint=new) for i in range(4)]
    async with operated(beats) as cluster:
        answer = await cluster.act("ratio", {"prefill": 1, "decode": 3})
        assert answer.json()["plan"] == ["flip decode-0 to prefill", "flip new-0 to prefill"]
        await cluster.until(lambda: roles(cluster).count("prefill") == 2)
        view = await cluster.get("status")
        assert [(g["prefill"], g["decode"], g["note"]) for g in view["groups"]] == [  # type: ignore
            (1, 3, ""),
            (1, 3, ""),
        ]


async def test_what_does_not_pair_is_explained(beat_of: BeatOf):
    new = Fingerprint("model", "r2", "float32", 16, "L2H2B16D16:float32")
    beats = [beat_of("old-0", role=Role.PREFILL), beat_of("new-0", fingerprint=new)]
    async with operated(beats) as cluster:
        notes = (await cluster.get("status"))["notes"]
        said = [note for note in notes if "r2" in note]  # type: ignore[attr-defined]
        assert len(said) == 2
        assert "its decode workers find no prefill worker that they pair with" in "".join(said)
        assert "model files: r1" in "".join(said)


async def test_a_dry_run_changes_nothing_and_shows_the_plan(cluster: OperatedCluster):
    answer = await cluster.act("pin", {"prefill": 1, "decode": 5, "dry_run": True})
    assert answer.json()["outcome"] == "dry_run"
    assert answer.json()["plan"] == ["flip prefill-0 to decode", "add 2 decode workers"]
    assert cluster.roster.added == [] and roles(cluster).count("prefill") == 2
    assert (await cluster.get("status"))["planner"]["pinned"] is None  # type: ignore[index]


async def test_a_pin_flips_adds_and_removes(cluster: OperatedCluster):
    assert (await cluster.act("pin", {"prefill": 1, "decode": 5})).status_code == 200
    assert cluster.roster.added == [(Role.DECODE, 2, "")]
    await cluster.until(lambda: roles(cluster).count("decode") == 3)
    await cluster.act("pin", {"prefill": 1, "decode": 1})
    assert len(cluster.roster.removed) == 2


async def test_an_actuator_that_refuses_leaves_every_worker_as_it_was(cluster: OperatedCluster):
    cluster.roster.quota = 1
    answer = await cluster.act("pin", {"prefill": 1, "decode": 8})
    assert error_of(answer)[:2] == (409, "refused")
    assert "quota is 1" in answer.text
    assert roles(cluster).count("prefill") == 2
    newest = msgspec.json.decode(
        (await cluster.http.get("/api/v1/audit")).content, type=AuditView
    ).entries[0]
    assert (newest.action, newest.outcome, newest.message) == (
        "pin",
        "refused",
        "the quota is 1 workers",
    )


@pytest.mark.parametrize(
    ("action", "body", "wanted"),
    [
        ("ratio", {"prefill": 0, "decode": 0}, (400, "invalid", "prefill", "0:1 or more")),
        ("ratio", {"prefill": -1, "decode": 2}, (400, "invalid", "prefill", "Expected `int` >= 0")),
        ("ratio", {"prefill": 1}, (400, "invalid", "decode", "")),
        ("pin", {"prefill": 4, "decode": 1}, (409, "refused", "prefill", "max_prefill = 3")),
        ("pin", {"prefill": 0, "decode": 1}, (409, "refused", "prefill", "min_prefill = 1")),
        ("add", {"role": "decode", "count": 7}, (409, "refused", "decode", "max_decode = 8")),
        ("add", {"role": "decode", "hardware": "tpu"}, (400, "invalid", "hardware", "default")),
        ("add", {"role": "idle"}, (400, "invalid", "role", "Invalid enum value 'idle'")),
        ("flip", {"worker_id": "nobody", "role": "decode"}, (404, "not_found", "worker_id", "")),
        ("drain", {"worker_id": "nobody"}, (404, "not_found", "worker_id", "")),
        ("drain", {"worker_id": "decode-0", "force": 1}, (400, "invalid", "force", "")),
        ("explode", {}, (404, "not_found", "", "")),
    ],
)
async def test_input_that_cannot_be_used_is_refused_with_field_and_limit(
    cluster: OperatedCluster, action: str, body: object, wanted: tuple[int, str, str, str]
):
    assert error_of(await cluster.act(action, body)) == wanted
    assert roles(cluster).count("prefill") == 2 and not cluster.roster.added


async def test_a_flip_a_drain_an_add_and_a_remove_reach_their_parts(cluster: OperatedCluster):
    await cluster.act("flip", {"worker_id": "decode-1", "role": "prefill"})
    await cluster.until(lambda: cluster.server.serving()["decode-1"] is Role.PREFILL)
    again = await cluster.act("flip", {"worker_id": "decode-1", "role": "prefill"})
    assert again.json()["message"] == "decode-1 is a prefill worker already"
    await cluster.act("drain", {"worker_id": "decode-1"})
    await cluster.until(lambda: "decode-1" not in cluster.server.serving())
    await cluster.act("add", {"role": "prefill", "count": 1})
    await cluster.act("remove", {"worker_id": "decode-0"})
    assert cluster.roster.added == [(Role.PREFILL, 1, "")]
    assert cluster.roster.removed == ["decode-0"]


async def test_a_pause_is_shown_with_who_asked_until_it_is_resumed(cluster: OperatedCluster):
    await cluster.act("pause", {"reason": "new switch"}, **{"X-Operator": "ada"})
    planner = (await cluster.get("status"))["planner"]
    assert (planner["paused"], planner["paused_by"]) == (True, "ada@127.0.0.1")  # type: ignore
    await cluster.act("resume")
    assert cluster.server.overrides.is_paused is False


async def test_an_action_with_a_key_is_done_once(cluster: OperatedCluster):
    key = {"Idempotency-Key": "k1"}
    first = await cluster.act("add", {"role": "decode"}, **key)
    second = await cluster.act("add", {"role": "decode"}, **key)
    assert first.json() == second.json()
    assert len(cluster.roster.added) == 1
    other = await cluster.act("add", {"role": "prefill"}, **key)
    assert error_of(other)[:3] == (422, "idempotency_key_reused", "Idempotency-Key")


async def test_actions_ask_for_the_token_and_reads_do_not(cluster: OperatedCluster):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        answer = await cluster.http.post("/api/v1/actions/pause", json={}, headers=headers)
        assert error_of(answer)[:2] == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (await cluster.http.put("/api/v1/config", json={})).status_code == 401
    assert cluster.server.overrides.is_paused is False


async def test_reads_ask_for_the_token_where_that_is_set(beat_of: BeatOf):
    async with operated([], protect_reads=True) as cluster:
        assert (await cluster.http.get("/api/v1/status")).status_code == 401
        await cluster.get("status", Authorization=f"Bearer {TOKEN}")


async def test_without_an_operator_token_nobody_acts():
    async with operated([], operator_token="") as cluster:
        answer = await cluster.act("pause")
        assert error_of(answer)[:2] == (403, "forbidden")
        assert "BATON_OPERATOR_TOKEN" in answer.text


async def test_decisions_show_steps_reasons_and_inputs_that_are_numbers(cluster: OperatedCluster):
    answer = await cluster.http.get("/api/v1/decisions?limit=5")
    (decided,) = msgspec.json.decode(answer.content, type=DecisionsView).decisions
    assert decided.steps[0].worker_id == "prefill-0" and decided.steps[0].outcome == "done"
    assert decided.reasons == ["1P2D carries 4 requests a second", "one worker lies about its load"]
    assert decided.inputs == {"requests_per_s": 4.0} and decided.acted


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "1001", "99999999999999999999", "²"])
async def test_a_limit_outside_its_range_is_named(cluster: OperatedCluster, limit: str):
    answer = await cluster.http.get("/api/v1/decisions", params={"limit": limit})
    assert error_of(answer) == (400, "invalid", "limit", "1 to 1000")


async def test_what_if_asks_the_planner_and_touches_nothing(cluster: OperatedCluster):
    body = {"requests_s": 12.5, "prompt_tokens": 900, "output_tokens": 200, "ttft_slo_ms": 500}
    answer = await cluster.http.post("/api/v1/what-if", json=body)
    assert msgspec.json.decode(answer.content, type=WhatIfAnswer).decode == 2
    (load,) = cluster.plans.asked
    assert (load.requests_per_s, load.ttft_slo_s, load.tpot_slo_s) == (12.5, 0.5, 0.0)
    wrong = await cluster.http.post("/api/v1/what-if", json={**body, "cached_share": 2})
    assert error_of(wrong) == (400, "invalid", "cached_share", "Expected `float` <= 1.0")
    for unknown in ("policy", "mode"):  # it has none: the answer is in the mode that is served
        wrong = await cluster.http.post("/api/v1/what-if", json={**body, unknown: "sideways"})
        assert error_of(wrong) == (400, "invalid", unknown, "")
    assert len(cluster.plans.asked) == 1


async def test_the_configuration_is_read_replaced_and_audited(cluster: OperatedCluster):
    before = await cluster.get("config")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    wanted = {**before, "max_decode": 5, "min_decode": 2}
    answer = await cluster.http.put("/api/v1/config", json=wanted, headers=headers)
    assert answer.json() == wanted
    assert cluster.plans.current == PlannerConfig(max_prefill=3, max_decode=5, min_decode=2)
    assert (await cluster.get("audit"))["entries"][0]["action"] == "config"  # type: ignore[index]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"min_decode": 9, "max_decode": 3}', "min_decode"),
        ('{"max_gpus": 1}', "max_gpus"),
        ('{"mode": "sideways"}', "mode"),
        ('{"dead_band": "wide"}', "dead_band"),
        ('{"nothing_like_it": 1}', "nothing_like_it"),
        ('{"hardware": [{"name": "a", "colour": "red"}]}', "hardware[0].colour"),
        ("{", ""),
    ],
)
async def test_a_configuration_that_cannot_be_names_the_field(
    cluster: OperatedCluster, body: str, field: str
):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = await cluster.http.put("/api/v1/config", content=body, headers=headers)
    assert error_of(answer)[:3] == (400, "invalid", field)
    assert cluster.plans.current == PlannerConfig(max_prefill=3, max_decode=8)


async def test_a_body_over_its_limit_is_not_read(cluster: OperatedCluster):
    answer = await cluster.act("pause", {"reason": "x" * 70_000})
    assert error_of(answer)[:2] == (413, "too_large")


async def test_history_has_columns_of_equal_length(cluster: OperatedCluster):
    answer = await cluster.http.get("/api/v1/history?minutes=5")
    view = msgspec.json.decode(answer.content, type=HistoryView)
    assert view.at_s and {len(column) for column in view.series.values()} == {len(view.at_s)}
    assert error_of(await cluster.http.get("/api/v1/history?minutes=0"))[2] == "minutes"


async def test_events_begin_with_the_whole_status_then_tell_flips_and_actions(
    cluster: OperatedCluster,
):
    seen: dict[str, list[dict[str, object]]] = {}
    async with cluster.http.stream("GET", "/api/v1/events") as stream:
        name = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                name = line[7:]
            if line.startswith("data: "):
                first = not seen
                seen.setdefault(name, []).append(json.loads(line[6:]))
                if first:
                    assert len(seen["status"][0]["workers"]) == 4  # type: ignore[arg-type]
                if name == "status" and len(seen["status"]) == 2:
                    await cluster.act("flip", {"worker_id": "decode-0", "role": "prefill"})
            if {"action", "flip", "status"} <= seen.keys():
                break
    assert seen["action"][0]["action"] == "flip"
    assert seen["flip"][0] == {
        "worker_id": "decode-0",
        "from_role": "decode",
        "to_role": "prefill",
        "at_s": seen["flip"][0]["at_s"],
    }
    assert seen["status"][1]["workers"] == []


async def test_every_shape_of_the_api_stands_in_its_openapi_document(cluster: OperatedCluster):
    document = (await cluster.http.get("/openapi.json")).json()
    assert "/api/v1/actions/ratio" in document["paths"]
    assert document["paths"]["/api/v1/config"]["put"]["security"] == [{"operator": []}]
    for path, methods in document["paths"].items():
        for method in methods:
            answer = await cluster.http.request(method.upper(), path + "/nothing")
            assert answer.status_code in (404, 405), path
    names = set(document["components"]["schemas"])
    assert {"StatusView", "WorkerView", "ErrorView", "PlannerConfig", "RatioBody"} <= names


async def test_unknown_routes_and_methods_are_answered_in_the_same_shape(cluster: OperatedCluster):
    assert error_of(await cluster.http.get("/api/v1/nothing"))[:2] == (404, "not_found")
    assert error_of(await cluster.http.delete("/api/v1/status"))[:2] == (405, "method_not_allowed")
