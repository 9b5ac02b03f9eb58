"""Profiles: their arithmetic, their names, and files that cannot be used."""

from dataclasses import replace
from pathlib import Path

import pytest

from profiles.catalog import (
    ProfileError,
    known_profiles,
    load_profile,
    measured_profiles,
    with_host_memory,
)


def test_the_named_hardware_is_there():
    names = known_profiles()
    assert {"llama-3.1-8b@h200", "llama-3.1-8b@h100", "llama-3.1-8b@l40s"} <= set(names)
    assert {"qwen3-0.6b@h200", "qwen3-0.6b@l40s"} <= set(names)


@pytest.mark.parametrize(
    "name", ["llama-3.1-70b@h100x4", "llama-3.1-70b@h200x2", "qwen3-0.6b@h100"]
)
def test_a_profile_names_its_source_and_is_positive(name):
    profile = load_profile(name)
    assert profile.name == name and "roofline" in profile.source
    assert min(profile.step_s, profile.prefill_token_s, profile.kv_tokens, profile.load_s) > 0


def test_a_step_reads_the_weights_once_and_a_prompt_costs_its_operations():
    profile = load_profile("llama-3.1-8b@h200")
    assert profile.step_s == pytest.approx(16.06e9 / (0.8 * 4.8e12) + 0.0008)
    flops = 2 * 7.504e9 * 1000 / (0.6 * 989e12)
    assert profile.chunk_s(0, 1000) == pytest.approx(flops, rel=0.05)  # attention is the rest
    halves = profile.chunk_s(0, 500) + profile.chunk_s(500, 1000)
    assert profile.chunk_s(0, 1000) == pytest.approx(halves)


def test_more_gpus_are_faster_and_hold_more():
    two, four = load_profile("llama-3.1-70b@h200x2"), load_profile("llama-3.1-70b@h200x4")
    assert four.step_s < two.step_s and four.prefill_token_s < two.prefill_token_s
    assert four.kv_tokens > 2 * two.kv_tokens
    assert four.usd_per_hour == 2 * two.usd_per_hour


def test_a_host_holds_what_its_memory_has_room_for_where_its_speed_is_known():
    profile = with_host_memory(load_profile("llama-3.1-8b@h200"), 64 << 30)
    assert profile.host_kv_tokens == (64 << 30) // 131072
    assert profile.host_copy_s(16) == pytest.approx(16 * 131072 / (0.8 * 64e9))
    assert with_host_memory(profile, 0) is profile
    slow = replace(profile, host_bytes_per_s=0.0)
    with pytest.raises(ProfileError, match="needs the profile's host_bytes_per_s"):
        with_host_memory(slow, 64 << 30)
    with pytest.raises(ProfileError, match="5 bytes of host memory"):
        with_host_memory(profile, 5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama-3.1-70b@l40s", "leave no room for KV"),
        ("llama-9@h200", "is no profile: one of llama-3.1-8b"),
        ("llama-3.1-8b@h200x0", "at least one GPU"),
        ("", "is no profile"),
        ("/nowhere/p.toml", "cannot read the profile"),
    ],
)
def test_a_name_that_is_no_profile_says_what_there_is(name, reason):
    with pytest.raises(ProfileError, match=reason):
        load_profile(name)


def test_a_file_holds_a_profile_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.toml"
    fields = "\n".join(
        f"{name} = {value}"
        for name, value in {
            "step_s": 0.01, "sequence_s": 0.001, "context_token_s": 1e-7, "prefill_token_s": 1e-4,
            "prefill_pair_s": 1e-9, "kv_tokens": 1000, "kv_bytes_per_token": 100, "num_layers": 4,
            "max_model_len": 2048, "link_bytes_per_s": 1e9,
        }.items()
    )  # fmt: skip
    path.write_text(f'source = "measured"\n{fields}\n')
    profile = load_profile(str(path))
    assert (profile.name, profile.source, profile.num_layer_groups) == ("mine", "measured", 4)
    path.write_text(path.read_text().replace("kv_tokens = 1000", "kv_tokens = 0"))
    with pytest.raises(ProfileError, match="must be positive"):
        load_profile(str(path))
    path.write_text("step_s = 'slow'")
    with pytest.raises(ProfileError, match=r"mine\.toml"):
        load_profile(str(path))


@pytest.mark.parametrize("device", ["h100", "h200", "l40s"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.1-70b", "qwen3-0.6b"])
def test_every_model_has_a_profile_on_every_device_with_enough_of_them(model, device):
    profile = load_profile(f"{model}@{device}{'x4' if '70b' in model else ''}")
    assert profile.source and profile.kv_tokens > 10_000


def test_measured_profiles_name_their_source_and_are_near_the_roofline():
    names = measured_profiles()
    assert names == ["llama-3.1-70b@h200x4-measured", "llama-3.1-8b@h200-measured"]
    for name in names:
        measured, roofline = load_profile(name), load_profile(name.removesuffix("-measured"))
        assert measured.name == name and "aiconfigurator-core 0.12.0" in measured.source
        for batch in (1, 16, 128):
            decode_s = roofline.decode_s(batch, 4000 * batch)
            assert measured.decode_s(batch, 4000 * batch) == pytest.approx(decode_s, rel=0.1)
        for tokens in (512, 8192):
            prefill_s = roofline.chunk_s(0, tokens) + roofline.step_s
            assert 0.6 < (measured.chunk_s(0, tokens) + measured.step_s) / prefill_s < 1
