"""A picture and its edit from the same noise: the source as it was, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcap.diffusion import schedulers
from mcap.diffusion.sampling import SamplingSettings
from mcap.errors import UsageError
from mcap.generation.editing.prompt_to_prompt import LocalBlend
from mcap.generation.editing.redraw import AttentionControl, Edit, redraw
from mcap.generation.editing.word_alignment import unchanged
from tests.generation.editing.test_prompt_to_prompt import SOURCE, edited
from tests.support.subjects import make_subject
from tests.support.tiny import sample, stream, tiny_backbone

KINDS = {"sd": (64, 64), "sdxl": (64, 96)}


def both(backbone, edits, pipeline=None, **options) -> list:
    """``options``: those of `AttentionControl`, ``size`` and ``on_step``."""
    size, on_step = options.pop("size", (64, 64)), options.pop("on_step", None)
    sampling = SamplingSettings(steps=4, guidance_scale=5.0, size=size, negative_prompt="dark")
    control = AttentionControl(**options)
    return list(
        redraw(backbone, pipeline or backbone.pipeline(), edits, sampling, control, on_step)
    )


def plain(backbone, prompt: str, seed: int, **options):
    given = {"negative_prompt": "dark", "steps": 4, "guidance_scale": 5.0}
    return sample(backbone, prompt, [seed], **given | options)[0]


def largest(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", ["model", "heun", "dpm++-2m-sde-karras"])
def test_the_source_is_the_picture_that_was_there(kind, scheduler):
    backbone = tiny_backbone(kind=kind)
    pipeline = backbone.pipeline()
    pipeline.scheduler = schedulers.make(scheduler, backbone.scheduler)
    options = {"size": KINDS[kind], "pipeline": pipeline}
    edits = [Edit(edited("light", "dark"), 3), Edit(unchanged(SOURCE), 4)]
    told: list[int] = []
    first, second = both(backbone, edits, **options, on_step=told.append)
    given = {"negative_prompt": "dark", "steps": 4, "guidance_scale": 5.0, "size": KINDS[kind]}
    assert told == [2] * schedulers.calls(pipeline.scheduler, 4)
    for found, seed in ((first, 3), (second, 4)):
        (alone,) = stream(backbone, SOURCE, [seed], **given, pipeline=pipeline)
        assert largest(found.source, alone.image) <= 1
    assert largest(first.source, first.target) > 2
    assert largest(second.source, second.target) <= 1  # nothing was changed
    assert first.region is None


def test_nothing_kept_is_the_new_prompts_own_picture():
    backbone = tiny_backbone()
    edit = Edit(edited("light", "dark"), 3)
    (free,) = both(backbone, [edit], keep=0.0)
    assert largest(free.target, plain(backbone, edit.prompt.target, 3)) <= 1
    (kept,) = both(backbone, [edit], keep=1.0, layout=1.0)
    assert largest(kept.target, free.target) > 2


def test_more_kept_is_nearer_to_the_source():
    backbone = tiny_backbone()
    edits = [Edit(edited("light", "dark"), seed) for seed in range(4)]

    def distance(keep: float) -> float:
        found = both(backbone, edits, keep=keep)
        return float(np.mean([np.abs(f.source.astype(float) - f.target).mean() for f in found]))

    assert distance(1.0) < distance(0.0)


def test_weights_change_and_weight_one_does_not():
    backbone = tiny_backbone()
    same, more, none = both(
        backbone, [Edit(unchanged(SOURCE), 3, {6: factor}) for factor in (1.0, 10.0, -10.0)]
    )
    assert largest(same.source, same.target) <= 1
    assert largest(more.source, more.target) > 2
    assert largest(none.source, none.target) > 2


def test_learned_tokens_and_lora_take_part(tmp_path):
    subject = make_subject(tmp_path / "jane.mcap")
    backbone = tiny_backbone()
    pipeline = backbone.pipeline()
    source = "a photo of a <mcap-id> face, light background"
    edit = Edit(edited("light", "dark", source), 3, {3: 2.0})
    subject.load_into(pipeline)
    (found,) = both(backbone, [edit], pipeline)
    before = sample(
        backbone, source, [3], negative_prompt="dark", steps=4, guidance_scale=5.0
    )[0]  # fmt: skip
    subject.unload_from(pipeline)
    assert largest(found.source, before) <= 1
    assert largest(found.source, both(backbone, [Edit(edited("light", "dark"), 3)])[0].source) > 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_edit_leaves_the_rest_to_the_bit(kind, monkeypatch):
    """The latents outside of the region are the source's; the region is not everything."""
    backbone = tiny_backbone(kind=kind)
    monkeypatch.setattr(
        "mcap.generation.editing.prompt_to_prompt.FLAT", 0.0
    )  # the tiny model's maps are
    monkeypatch.setattr("mcap.generation.editing.prompt_to_prompt.BLEND_THRESHOLD", 0.7)
    kept: list[torch.Tensor] = []
    original = LocalBlend.after_call

    def after_call(self, call, latents, batch):
        kept.append(original(self, call, latents, batch))
        return kept[-1]

    monkeypatch.setattr(LocalBlend, "after_call", after_call)
    width, height = KINDS[kind]
    (found,) = both(backbone, [Edit(edited("light", "dark"), 3)], local=True, size=KINDS[kind])
    assert found.region.shape == (height // 4, width // 4)
    assert 0 < found.region.mean() < 1
    source, target = kept[-1]
    assert torch.equal(source[:, ~found.region], target[:, ~found.region])
    assert not torch.allclose(source[:, found.region], target[:, found.region])


def test_everything_is_put_back(monkeypatch):
    backbone = tiny_backbone()
    before = dict(backbone.unet.attn_processors)
    hooks = sum(len(module._forward_hooks) for module in backbone.unet.modules())
    picture = plain(backbone, SOURCE, 3)
    both(backbone, [Edit(edited("light", "dark"), 3)], local=True)

    def fail(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both(backbone, [Edit(edited("light", "dark"), 3)], local=True, on_step=fail)
    after = backbone.unet.attn_processors
    assert all(after[name] is processor for name, processor in before.items())
    assert sum(len(module._forward_hooks) for module in backbone.unet.modules()) == hooks
    assert np.array_equal(plain(backbone, SOURCE, 3), picture)


def test_a_prompt_that_is_cut_is_refused():
    with pytest.raises(UsageError, match="tokens long, of which 77 fit"):
        both(tiny_backbone(), [Edit(edited("light", "dark " * 80), 3)])
