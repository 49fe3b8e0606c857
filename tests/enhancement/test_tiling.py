"""Tiles: no seams, bounded memory, smaller ones when memory runs out."""

from __future__ import annotations

import dataclasses
import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mcap.contracts import Restorer, RestorerInfo
from mcap.enhancement import result_array
from mcap.enhancement.tiling import (
    TileJob,
    TileSource,
    Tiling,
    restore_tiled,
    spans,
    tile_by_tile,
)
from mcap.errors import McapError, OutOfMemory


class Chain(nn.Module):
    """Convolutions at the input's size, each with a look at its eight neighbours, then s times as
    many pixels. ``fold``: the first layer folds fold x fold pixels into channels."""

    def __init__(self, scale=2, layers=3, fold=1, minimum=1, known=True) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.scale, self.fold = scale, fold
        widths = [3 * fold**2, *[6] * (layers - 1), 3 * (fold * scale) ** 2]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.info = RestorerInfo(
            kind="image",
            scale=scale,
            multiple_of=fold,
            minimum_size=max(minimum, fold),
            moves=True,
            half_precision=True,
            reach=layers * fold if known else None,
            overlap=2 * layers * fold if known else None,
        )
        self.seen: list[tuple[int, int]] = []

    def restore(self, image):
        height, width = image.shape[2:]
        assert height % self.info.multiple_of == width % self.info.multiple_of == 0
        assert min(height, width) >= self.info.minimum_size
        self.seen.append((height, width))
        x = F.pixel_unshuffle(image, self.fold)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return torch.sigmoid(3 * F.pixel_shuffle(x, self.fold * self.scale))

    def to(self, device, half=False):
        return self


def untiled(restorer, image, **options):
    return restore_tiled(restorer, image, Tiling(tile=100_000, dtype=np.float32, **options)).image


def noise(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def test_a_stand_in_is_a_restorer():
    assert isinstance(Chain(), Restorer)


@settings(deadline=None)
@given(
    length=st.integers(1, 400),
    tile=st.integers(8, 120),
    overlap=st.integers(0, 60),
    multiple=st.sampled_from([1, 2, 4]),
    minimum=st.integers(1, 8),
    reach=st.one_of(st.none(), st.integers(0, 40)),
)
def test_spans_cover_everything_once_and_in_order(length, tile, overlap, multiple, minimum, reach):
    up = lambda value: -(-value // multiple) * multiple  # noqa: E731
    length, tile, minimum = up(length), up(tile), up(minimum)
    tile = max(tile, minimum)
    length = max(length, minimum)
    overlap = min(overlap, tile - 1)
    found = spans(length, tile, overlap, multiple=multiple, minimum=minimum, reach=reach)
    assert found[0].keep == found[0].solid == found[0].start == 0
    assert found[-1].end == found[-1].fade == found[-1].stop == length
    for span in found:
        assert minimum <= span.stop - span.start <= tile
        assert span.start % multiple == 0
        assert span.start <= span.keep <= span.solid <= span.fade <= span.end <= span.stop
    for span, after in itertools.pairwise(found):
        assert (span.fade, span.end) == (after.keep, after.solid)
        shared = span.stop - after.start
        assert shared >= min(overlap, tile - multiple)
        if reach is not None and shared >= 2 * reach:  # all that is kept was seen with all around
            assert after.keep >= after.start + reach
            assert span.end <= span.stop - reach


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    tile=st.integers(24, 80),
    scale=st.sampled_from([1, 2, 4]),
    fold=st.sampled_from([1, 2]),
    minimum=st.sampled_from([1, 16]),
)
def test_tiled_equals_untiled_everywhere_where_the_reach_is_known(
    height, width, tile, scale, fold, minimum
):
    restorer = Chain(scale, layers=3, fold=fold, minimum=minimum)
    image = noise(height, width, seed=height * 1000 + width)
    whole = untiled(restorer, image)
    found = restore_tiled(restorer, image, Tiling(tile=tile, dtype=np.float32))
    assert found.image.shape == (scale * height, scale * width, 3)
    assert found.tile_used <= tile
    assert max(side for sides in restorer.seen[1:] for side in sides) <= tile
    np.testing.assert_allclose(found.image, whole, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(60, 200),
    width=st.integers(60, 200),
    tile=st.integers(40, 100),
    overlap=st.integers(8, 40),
)
def test_tiled_is_near_untiled_where_the_reach_is_not_known(height, width, tile, overlap):
    """The border: where two tiles run over into one another, and the reach on both sides of it."""
    reach = 5
    restorer = Chain(2, layers=reach, known=False)
    image = noise(height, width, seed=height)
    whole = untiled(restorer, image)
    found = restore_tiled(
        restorer, image, Tiling(tile=tile, overlap=overlap, dtype=np.float32)
    ).image
    difference = np.abs(found - whole).max(axis=-1)
    if min(overlap, tile // 2) // 4 >= reach:  # what is cut of each is all that is wrong
        assert difference.max() <= 1e-5
    for axis, length in enumerate((height, width)):
        outside = np.ones(2 * length, bool)
        for span in spans(length, tile, min(overlap, tile // 2))[1:]:
            outside[2 * max(0, span.keep - reach) : 2 * (span.solid + reach)] = False
        difference = np.compress(outside, difference, axis=axis)
    assert difference.size == 0 or difference.max() <= 1e-5


class Same:
    """Gives what it is given: what is not equal afterwards, the tiles have done."""

    info = RestorerInfo(kind="image", scale=1)

    def restore(self, image):
        return image


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(8, 64),
    overlap=st.integers(0, 80),
)
def test_a_restorer_that_changes_nothing_changes_nothing(height, width, tile, overlap):
    image = noise(height, width)
    before = image.clone()
    found = restore_tiled(Same(), image, Tiling(tile=tile, overlap=overlap, dtype=np.float32)).image
    np.testing.assert_array_equal(found, image.permute(1, 2, 0).numpy())
    assert torch.equal(image, before)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_arrays_of_every_depth_come_back_as_they_were(kind):
    rng = np.random.default_rng(0)
    image = rng.random((70, 50, 3), dtype=np.float32)
    if kind != np.float32:
        image = rng.integers(0, np.iinfo(kind).max, (70, 50, 3), endpoint=True).astype(kind)
    image.flags.writeable = False
    found = restore_tiled(Same(), image, Tiling(tile=24, overlap=6, dtype=kind))
    assert found.image.dtype == kind
    np.testing.assert_array_equal(found.image, image)


def test_results_are_rounded_to_the_nearest_level():
    values = torch.tensor([0.0, 0.49, 0.51, 254.49, 254.51, 255.0]) / 255
    image = values.reshape(1, 1, -1).expand(3, 1, -1)
    found = restore_tiled(Same(), image, Tiling(dtype=np.uint8)).image
    assert found[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_values_outside_the_range_are_cut():
    restorer = Same()
    restorer.restore = lambda image: image * 3 - 1
    found = restore_tiled(restorer, torch.tensor([0.0, 0.5, 1.0]).expand(3, 2, 3)).image
    assert found[0, :, 0].tolist() == [0, 128, 255]


def test_progress_is_told():
    steps, told = tile_by_tile(Same(), noise(100, 60), Tiling(tile=40, overlap=8)), []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            found = end.value
            break
    assert told == [(number, found.tiles) for number in range(found.tiles + 1)]
    assert found.tiles == 6
    assert found.notes == ()


def test_one_that_cannot_be_cut_gets_the_picture_whole():
    restorer = Chain(1)
    restorer.info = dataclasses.replace(restorer.info, tileable=False)
    restore_tiled(restorer, noise(90, 70), Tiling(tile=32))
    assert restorer.seen == [(90, 70)]


# memory


ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_smaller_tile_is_taken_when_memory_runs_out(error):
    class Small(Chain):
        def restore(self, image):
            if image.shape[2] * image.shape[3] > 50 * 50:
                raise error
            return super().restore(image)

    restorer = Small(2)
    image = noise(150, 130)
    found = restore_tiled(restorer, image, Tiling(tile=512, dtype=np.float32))
    assert found.tile_used <= 50
    assert found.notes == (
        "Memory ran out with a tile of 150 pixels; went on with 75.",
        "Memory ran out with a tile of 75 pixels; went on with 37.",
    )
    np.testing.assert_allclose(found.image, untiled(Chain(2), image), atol=1e-5)

    class None_(Small):
        def restore(self, image):
            raise error

    with pytest.raises(OutOfMemory, match="with a tile of 37 pixels") as raised:
        restore_tiled(None_(2), image)
    assert raised.value.exit_code == 5


def test_other_errors_are_not_taken_for_memory():
    restorer = Same()

    def broken(image):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    restorer.restore = broken
    with pytest.raises(RuntimeError, match="mat1"):
        restore_tiled(restorer, noise(40, 40))


def test_a_tile_that_cannot_fit_is_not_tried():
    restorer = Chain(2)
    restorer.info = dataclasses.replace(restorer.info, bytes_per_pixel=1000.0)
    found = restore_tiled(restorer, noise(200, 200), Tiling(tile=128, memory=64 * 64 * 1000))
    assert found.tile_used <= 64
    assert len(found.notes) == 1 and "64 is worked with" in found.notes[0]
    restorer.seen.clear()
    # A picture that is small enough is no reason for a note.
    assert (
        restore_tiled(restorer, noise(60, 60), Tiling(tile=128, memory=64 * 64 * 1000)).notes == ()
    )


def test_a_large_result_lies_in_a_file_that_leaves_nothing_behind(monkeypatch, tmp_path):
    image = noise(90, 80)
    in_memory = restore_tiled(Chain(4), image, Tiling(tile=40)).image
    assert not isinstance(in_memory, np.memmap)
    monkeypatch.setattr(result_array, "IN_MEMORY", 0)
    found = restore_tiled(Chain(4), image, Tiling(tile=40, scratch=tmp_path)).image
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, in_memory)
    del found
    assert os.listdir(tmp_path) == []


def test_no_room_on_the_disk_is_known_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(result_array, "IN_MEMORY", 0)
    monkeypatch.setattr(result_array.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    restorer = Chain(4)
    with pytest.raises(McapError, match="320 x 360 pixels needs"):
        restore_tiled(restorer, noise(90, 80), Tiling(scratch=tmp_path))
    assert restorer.seen == []
    with pytest.raises(McapError, match="No such file or directory"):
        monkeypatch.undo()
        monkeypatch.setattr(result_array, "IN_MEMORY", 0)
        restore_tiled(restorer, noise(90, 80), Tiling(scratch=tmp_path / "nowhere"))


# precision, and restorers that do wrong


class Halves(Chain):
    """A network whose numbers do not fit half precision in a bright tile."""

    def __init__(self) -> None:
        super().__init__(2)
        self.half = None
        self.moves = []

    def to(self, device, half=False):
        self.half = half
        self.moves.append(half)
        return self

    def restore(self, image):
        made = super().restore(image)
        return made * float("inf") if self.half and image.max() > 0.9 else made


def test_half_precision_is_left_where_it_does_not_hold():
    image = noise(64, 150) * 0.8
    image[:, :, 100:] += 0.2
    restorer = Halves()
    job = TileJob(restorer, TileSource(image), None, torch.device("cpu"), True, [])
    result = np.empty((128, 300, 3), np.float32)
    list(job.run(64, result))
    assert restorer.moves == [True, False]
    assert job.notes == ["Half precision could not hold this picture's numbers; went on in single."]
    np.testing.assert_allclose(result, untiled(Chain(2), image), atol=1e-5)


@pytest.mark.parametrize("allowed", [False, True])
def test_half_precision_on_the_cpu_is_for_restorers_that_allow_it(allowed):
    restorer = Halves()
    restorer.info = dataclasses.replace(restorer.info, half_precision=True, half_on_cpu=allowed)
    restore_tiled(restorer, noise(40, 40) / 2, Tiling(half=True))
    restore_tiled(restorer, noise(40, 40) / 2, Tiling(half=False))
    assert restorer.moves == [allowed, False]


def test_what_is_no_picture_is_a_defect_that_is_named():
    restorer = Same()
    restorer.restore = lambda image: image[:, :, 1:]
    with pytest.raises(McapError, match=r"shape \(1, 3, 39, 40\)"):
        restore_tiled(restorer, noise(40, 40))
    restorer.restore = lambda image: image * float("nan")
    with pytest.raises(McapError, match="no numbers"):
        restore_tiled(restorer, noise(40, 40))


@pytest.mark.parametrize(
    ("image", "options", "told"),
    [
        (torch.zeros(40, 40, 3), {}, "not "),
        (np.zeros((3, 40, 40), np.float32), {}, "not "),
        (torch.zeros(3, 0, 5), {}, "not "),
        (torch.zeros(3, 40, 40), {"dtype": np.int64}, "uint8, uint16 or float32"),
    ],
)
def test_wrong_arguments(image, options, told):
    with pytest.raises(ValueError, match=told):
        restore_tiled(Same(), image, Tiling(**options))


def test_a_face_restorer_is_refused():
    restorer = Same()
    restorer.info = RestorerInfo(kind="face", scale=1)
    with pytest.raises(ValueError, match="faces"):
        restore_tiled(restorer, noise(40, 40))


def test_a_result_does_not_change():
    found = restore_tiled(Same(), noise(8, 8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.tile_used = 3
