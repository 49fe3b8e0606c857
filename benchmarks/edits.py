"""What an edit keeps and what it changes: mcap edit at several strengths of --keep.

    python benchmarks/edits.py
    python benchmarks/edits.py --subject me.mcap --pictures 16 --keep 0 0.4 0.8 --sheet edits.jpg

For each edit and each ``--keep``, over the same seeds:

    face kept   SFace cosine between the face before and after
    moved       how far the five landmarks went, per cent of the picture's side
    changed     how much of the change took place: the measure's way from the picture as it was
                (0 %) to the picture that the new prompt draws on its own from the same noise
                (--keep 0: 100 %); a background's brightness, a picture's colourfulness
    in the face mean difference inside the face's box, levels of 255

``local`` is ``--local``: changed only where the changed words look. Drawn by the demo backbone,
alone or with a subject in the passport style. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mcap.diffusion.sampling import SamplingSettings
from mcap.faces.similarity import embed_largest_face
from mcap.generation.editing.redraw import AttentionControl, Edit, redraw
from mcap.generation.editing.word_alignment import PromptEdit, replace_words, rewrite, unchanged
from mcap.registry import registry
from mcap.results.contact_sheet import Tile, contact_sheet
from mcap.results.heatmap import overlay
from mcap.subjects.subject import read_subject

SHOWN = 2  # seeds of each edit on the sheet
PROMPT = "a photo of a person, plain white background"
SUBJECT_PROMPT = "a photo of a <mcap-id> person in the <mcap-style> style, plain white background"


def _border(image: np.ndarray) -> float:
    """Brightness of the upper corners."""
    side = image.shape[0] // 8
    return float(np.concatenate([image[:side, :side], image[:side, -side:]]).mean())


def _colour(image: np.ndarray) -> float:
    return float(np.ptp(image.astype(np.float32), axis=2).mean())


def edits(prompt: str) -> dict[str, tuple[PromptEdit, Callable[[np.ndarray], float]]]:
    """Name -> the edit, and what measures whether it took place."""
    start = unchanged(prompt)
    return {
        "white -> dark": (replace_words(start, "white", "dark"), _border),
        "+ black and white": (rewrite(start, prompt + ", black and white"), _colour),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", type=Path, help="of the demo backbone; default: nobody")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.0, 0.4, 0.6, 0.8, 1.0])
    parser.add_argument("--sheet", type=Path, help="a contact sheet of the pictures")
    given = parser.parse_args()
    backbone = registry().create("backbone", "demo", "cpu", torch.float32)
    detector = registry().create("detector", "yunet")
    identity = registry().create("identity", "sface")
    pipeline = backbone.pipeline()
    if given.subject:
        read_subject(given.subject).load_into(pipeline)
    tiles: dict[tuple[str, int], list[Tile]] = defaultdict(list)
    print("| edit | keep | face kept | moved | changed | in the face | faces |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (edit, measure) in edits(SUBJECT_PROMPT if given.subject else PROMPT).items():
        free: dict[int, float] = {}
        cases = [(0.0, False), *((keep, False) for keep in given.keep if keep), (0.8, True)]
        for keep, local in cases:
            drawn = list(_draw(backbone, pipeline, edit, given.pictures, keep, local))
            rows = []
            for seed, found in enumerate(drawn):
                value, before = measure(found.target), measure(found.source)
                free.setdefault(seed, value)
                way = free[seed] - before
                old, new = (
                    embed_largest_face(image, detector, identity)
                    for image in (found.source, found.target)
                )
                both = old is not None and new is not None
                rows.append(
                    (
                        float(old[1] @ new[1]) if both else np.nan,
                        _moved(old, new, found.source.shape[0]) if both else np.nan,
                        (value - before) / way if abs(way) > 5 else np.nan,
                        _inside(old, found) if both else np.nan,
                        float(both),
                    )
                )
                if seed < SHOWN:
                    row = tiles[name, seed]
                    if not row:
                        row.append(Tile(found.source, "before"))
                    row.append(Tile(found.target, name, (f"keep {keep:g}",)))
                    if found.region is not None:
                        row[-1] = Tile(found.target, name, (f"keep {keep:g}, local",))
                        region = overlay(found.source, found.region.astype(np.float32))
                        row.append(Tile(region, "where, local"))
            kept, moved, changed, inside, faces = np.nanmean(np.array(rows), axis=0)
            case = f"{keep:g}, local" if local else f"{keep:g}"
            print(
                f"| {name} | {case} | {kept:.3f} | {100 * moved:.2f} % | {100 * changed:.0f} % | "
                f"{inside:.1f} | {round(faces * len(rows))} of {len(rows)} |",
                flush=True,
            )
    if given.sheet:
        rows = list(tiles.values())
        sheet = contact_sheet([tile for row in rows for tile in row], len(rows[0]), 192)
        Image.fromarray(sheet).save(given.sheet, quality=85, optimize=True)


def _draw(backbone, pipeline, edit: PromptEdit, count: int, keep: float, local: bool):
    side = backbone.info.native_size
    settings = SamplingSettings(steps=20, guidance_scale=3.0, size=(side, side))
    edits = [Edit(edit, seed) for seed in range(count)]
    return redraw(backbone, pipeline, edits, settings, AttentionControl(keep, local=local))


def _moved(old, new, side: int) -> float:
    return float(np.linalg.norm(old[0].landmarks - new[0].landmarks, axis=1).mean() / side)


def _inside(old, found) -> float:
    """Mean difference within the face's box."""
    x0, y0, x1, y1 = (max(0, int(value)) for value in old[0].box)
    one, other = (image[y0:y1, x0:x1].astype(np.float32) for image in (found.source, found.target))
    return float(np.abs(one - other).mean())


if __name__ == "__main__":
    main()
