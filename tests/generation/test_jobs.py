"""What a run plans: prompts, settings and schedulers, and what the record tells of them."""

from __future__ import annotations

import pytest

from mcap.errors import UsageError
from tests.support.generating import run
from tests.support.subjects import make_profile
from tests.support.tiny import tiny_backbone


def test_prompts_of_the_profile_of_the_user_and_in_turn(subject, backbone, tmp_path):
    profile = make_profile(
        prompts={
            "composed": ["a {id} {noun}, {style} style", "photo of {id} in {style} light"],
            "negative": "dark",
        }
    )

    def used(name: str, **settings) -> list[str]:
        *_, finished = run(subject, backbone, tmp_path / name, profile, count=3, **settings)
        by_seed = sorted(finished.pictures, key=lambda picture: picture.record["seed"])
        return [picture.record["prompt"] for picture in by_seed]

    first, second = (
        "a <mcap-id> person, <mcap-style> style",
        "photo of <mcap-id> in <mcap-style> light",
    )
    assert used("a") == [first] * 3
    assert used("b", all_prompts=True) == [first, second, first]
    assert (
        used("c", prompts=("a person with a white face",))
        == ["a <mcap-id> person with a white face"] * 3
    )
    *_, finished = run(subject, backbone, tmp_path / "d", profile, count=1)
    assert finished.pictures[0].record["negative_prompt"] == "dark"
    *_, finished = run(subject, backbone, tmp_path / "d", profile, count=1, negative="")
    assert finished.pictures[0].record["negative_prompt"] == ""


def test_the_backbones_own_defaults_go_before_the_profiles(subject, tmp_path):
    from dataclasses import replace

    backbone = tiny_backbone()
    own = {"steps": 1, "guidance_scale": 2.0, "negative_prompt": "grey"}
    backbone.info = replace(backbone.info, generate_defaults=own)
    profile = make_profile(prompts={"negative": "dark"})
    *_, finished = run(subject, backbone, tmp_path, profile, count=1)
    record = finished.pictures[0].record
    assert {key: record[key] for key in own} == own
    said = {"steps": 2, "guidance_scale": 3.0}
    *_, finished = run(subject, backbone, tmp_path, profile, count=1, negative="", **said)
    record = finished.pictures[0].record
    assert {key: record[key] for key in own} == {**said, "negative_prompt": ""}


def test_which_scheduler(subject, tmp_path):
    """The user's, else the backbone's own choice, else the profile's, else the model's."""
    from dataclasses import replace

    backbone = tiny_backbone()
    plain, styled = (
        make_profile("plain"),
        make_profile("styled", generate={"steps": 2, "count": 1, "scheduler": "Euler a"}),
    )

    def used(name: str, profiles, **settings) -> dict[str, tuple[str, str]]:
        *_, finished = run(subject, backbone, tmp_path / name, profiles, count=1, **settings)
        return {
            picture.style: (picture.record["scheduler"], picture.record["sampler"])
            for picture in finished.pictures
        }

    both = [plain, styled]
    assert used("a", both) == {"plain": ("model", "DDIM"), "styled": ("euler-a", "Euler a")}
    heun = ("heun", "Heun")
    assert used("b", both, scheduler="Heun") == {"plain": heun, "styled": heun}
    pictures = [(tmp_path / name / "plain-000000.png").read_bytes() for name in "ab"]
    assert pictures[0] != pictures[1]
    # Said or not, the same scheduler draws the same picture, which need not be drawn again.
    assert (
        run(subject, backbone, tmp_path / "a", plain, count=1, scheduler="ddim")[0].to_generate == 0
    )
    events = run(subject, backbone, tmp_path / "c", plain, count=1, scheduler="heun", steps=3)
    assert events[0].steps == 5
    backbone.info = replace(backbone.info, generate_defaults={"scheduler": "lms"})
    assert used("d", both) == {"plain": ("lms", "LMS"), "styled": ("lms", "LMS")}
    with pytest.raises(UsageError, match="--steps 60: the scheduler LCM"):
        run(subject, backbone, tmp_path / "e", plain, scheduler="lcm", steps=60)
    with pytest.raises(Exception, match=r"generate\.scheduler"):
        make_profile(generate={"scheduler": "best"})


def test_no_path_of_this_machine_is_in_the_metadata(subject, tmp_path):
    from dataclasses import replace

    backbone = tiny_backbone()
    secret = "/home/jane-doe/models/my-model"
    backbone.info = replace(backbone.info, id=secret)
    *_, finished = run(subject, backbone, tmp_path, count=1)
    data = finished.pictures[0].path.read_bytes()
    assert finished.pictures[0].record["backbone"]["id"] == "my-model"
    for text in ("jane-doe", str(tmp_path), str(subject.path.parent)):
        assert text.encode() not in data


def test_the_picture_names_what_export_writes(subject, backbone, tmp_path):
    """Words and LoRA as ``mcap export`` calls them by default; none where the LoRA is off."""
    from mcap.images import provenance
    from mcap.subjects.export import export

    done = export(subject, "a1111", tmp_path / "webui")
    picture = run(subject, backbone, tmp_path / "a", count=1, adapter_scale=0.5)[-1].pictures[0]
    lora = next(path for path in done.files if path.parent.name == "Lora")
    text = provenance.read(picture.path).parameters
    assert f" <lora:{lora.stem}:0.5>" in text and "<mcap-" not in text
    assert done.words["<mcap-id>"] in text.split("\n")[0]
    off = run(subject, backbone, tmp_path / "b", count=1, adapter_scale=0.0)[-1].pictures[0]
    assert "<lora:" not in provenance.read(off.path).parameters
