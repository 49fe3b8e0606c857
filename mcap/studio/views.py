"""The contents of the page's views, read from the studio's folder and its jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.enhancement import report as enhancement_report
from mcap.enhancement.events import Enhanced
from mcap.errors import UsageError
from mcap.generation.folder import RankedFolder
from mcap.generation.ranking import shown_likeness, verdict, who_judged
from mcap.generation.summary import listed
from mcap.images.find import natural_order
from mcap.masking.folder import LARGEST_REPORT
from mcap.masking.looks import read_looks
from mcap.registry import registry
from mcap.runtime.documents import read_json
from mcap.runtime.files import sha256_of
from mcap.studio.commands import AS_STYLE, UNFRAMED
from mcap.studio.folder import OWN_FOLDERS, StyleFolders, people_of
from mcap.studio.jobs import OPEN, Job, Jobs
from mcap.studio.words import PLAN, on_the_page
from mcap.style.id_documents import rules
from mcap.style.profile import FoundProfile, list_profiles
from mcap.subjects.manifest import METRICS, SUFFIX, is_subject_folder, read_manifest

TITLES = {
    "mask": "Looking at the photos",
    "plan": "Working out the plan",
    "train": "Training",
    "generate": "Drawing portraits",
    "edit": "Changing words",
    "enhance": "Finishing pictures",
}
"""Title of a job -> what is said while it runs."""

STATES = {
    "waiting": "waits for its turn",
    "running": "is running",
    "stopping": "is stopping; what it has is being saved",
    "stopped": "was stopped",
    "interrupted": "was cut off",
    "failed": "could not be done",
    "done": "is done",
}

DONE_OF = re.compile(r"(?:^|[: ])([\d.]+)/([\d.]+) \(\d+ %\)")
"""How `mcap.cli.progress` says how much of a task is done."""
TAIL_BYTES = 4096
"""Of metrics.jsonl, in which a line has some hundred."""
SHOWN_STYLE_PICTURES = 4
SHOWN_PREVIEWS = 6
SHOWN_PROMPTS = 3


def address(*parts: str) -> str:
    """Return the path of a view from its parts, each quoted."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def known(name: str, among: Iterable[str]) -> str | None:
    """Return a name from an address as it is among those that are there; None for no other.

    Nothing from an address is ever made a path: ".." is nobody's name.
    """
    return next((each for each in among if each == name), None)


def pictures_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are not hidden, in natural order; [] where it is none."""
    try:
        found = [path for path in folder.iterdir() if path.name[0] != "." and path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=natural_order)


def everybody(studio: Path, jobs: Jobs) -> list[dict[str, Any]]:
    """Return a line a person: name, address, a picture, and what is going on."""
    people = []
    for person in people_of(studio):
        photos = pictures_in(StyleFolders(studio, person, "").photos)
        trained = [work for work in works(studio, person) if work["state"] == "complete"]
        busy = [job for job in jobs.of(person) if job.state in OPEN]
        people.append(
            {
                "name": person,
                "href": address("people", person),
                "src": photos and address("people", person, "photos", photos[0].name),
                "photos": len(photos),
                "styles": [work["title"] for work in trained],
                "busy": f"{TITLES.get(busy[0].title, busy[0].title)} …" if busy else "",
            }
        )
    return people


def photo_cards(folders: StyleFolders, *, looking: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a card a photo, with the verdict of ``mcap mask``, and the advice on all of them.

    ``looking``: it runs now, and photos without a verdict have what they show by themselves.
    """
    report: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):
        found = read_json(folders.masked / "report.json", LARGEST_REPORT)
        report = found if isinstance(found, dict) else {}
    verdicts = {Path(item["path"]).name: item for item in report.get("photos", ())}
    looks = {look.path.name: look for look in read_looks(folders.masked)} if looking else {}
    cards = []
    for number, path in enumerate(pictures_in(folders.photos), start=1):
        said, look = verdicts.get(path.name), looks.get(path.name)
        # Another photo may have come under the name of one that was removed.
        if said is not None and said.get("sha256") not in (None, sha256_of_unchanged(path)):
            said = None
        word, why = "not looked at yet", list[str]()
        if said is not None:
            word = "good" if said["accepted"] else "not used"
            why = said["notes"] if said["accepted"] else [said["reason"]]
        elif look is not None and look.refused is not None:
            word, why = "not used", [look.refused]
        elif look is not None:
            word = "good so far"
            faces = "one face" if look.faces == 1 else f"{look.faces} faces"
            why = [f"{faces}; next it is compared with the other photos"]
        cards.append(
            {
                "file": path.name,
                "part": f"verdict-{number}",
                "src": address("people", folders.person, "photos", path.name),
                "word": word,
                "mark": {"good": "good", "not used": "bad"}.get(word, "open"),
                "why": [on_the_page(sentence) for sentence in why],
                "whose": bool({"undecided", "stranger"} & set((said or {}).get("kinds", ()))),
            }
        )
    advice = [item["text"] for item in report.get("advice", ()) if "text" in item]
    return cards, [on_the_page(sentence) for sentence in advice]


def sha256_of_unchanged(path: Path) -> str:
    """Return the sha256 of a file, which is read again only when it has changed."""
    changed = path.stat()
    return sha256_of_version(path, changed.st_mtime_ns, changed.st_size)


@lru_cache(maxsize=1024)
def sha256_of_version(path: Path, _changed: int, _size: int) -> str:
    """Return the sha256 of a file as it is since it was changed last."""
    return sha256_of(path)


def styles() -> list[FoundProfile]:
    """Return the style profiles that can be used, in their order."""
    found = list_profiles(registry().profile_dirs)
    return [
        each
        for each in found
        if each.profile is not None and each.shadowed_by is None and each.name not in OWN_FOLDERS
    ]


def print_size(style: str, frame: str) -> tuple[float, float] | None:
    """Return how large a print is of pictures in a frame, in mm; None for what is not printed.

    ``frame`` is as `mcap.studio.commands.enhance` takes it.
    """
    if frame in rules().documents:
        return rules().documents[frame].size_mm
    found = next((each.profile for each in styles() if each.name == style), None)
    return found.size_mm if found is not None and frame == AS_STYLE else None


def style_cards() -> list[dict[str, Any]]:
    """Return a card a style: title, what it is, and some of its pictures."""
    cards = []
    for found in styles():
        assert found.profile is not None
        pictures: Sequence[Path] = ()
        with suppress(UsageError):
            pictures = found.profile.reference_paths()
        cards.append(
            {
                "name": found.name,
                "title": found.profile.title or found.name,
                "description": found.profile.description,
                "notice": found.profile.notice,
                "pictures": [
                    address("styles", found.name, str(number))
                    for number in range(min(len(pictures), SHOWN_STYLE_PICTURES))
                ],
            }
        )
    return cards


def subjects_of(studio: Path, person: str) -> list[str]:
    """Return the names of the styles that a person has a subject folder of, in natural order."""
    home = StyleFolders(studio, person, "").home
    found = sorted(home.glob(f"*{SUFFIX}"), key=natural_order) if home.is_dir() else []
    return [path.name.removesuffix(SUFFIX) for path in found if is_subject_folder(path)]


def works(studio: Path, person: str) -> list[dict[str, Any]]:
    """Return the styles that a person was trained in, or is being trained in."""
    titles = {each.name: each.profile.title for each in styles() if each.profile}
    found = []
    for name in subjects_of(studio, person):
        folders = StyleFolders(studio, person, name)
        state = "damaged"
        with suppress(UsageError):
            state = read_manifest(folders.subject).state
        found.append(
            {
                "name": name,
                "title": titles.get(name) or name,
                "href": address("people", person, "in", name),
                "state": state,
                "words": {
                    "complete": "trained",
                    "training": "training is not finished",
                    "damaged": "cannot be read",
                }[state],
                "portraits": len(listed(folders.portraits)[0]),
            }
        )
    return found


def job_line(job: Job, jobs: Jobs) -> dict[str, Any]:
    """Return what is said of a job in the list of commands."""
    state = job.state
    result = job.result() if state in ("failed", "stopped") else None
    return {
        "number": job.number,
        "title": TITLES.get(job.title, job.title),
        "state": STATES[state],
        "mark": {"failed": "bad", "interrupted": "bad", "done": "good"}.get(state, "open"),
        "command": jobs.line(job.words),
        "error": on_the_page(str((result or {}).get("error", ""))) if state == "failed" else "",
        "again": address("people", job.person, "jobs", str(job.number), "again"),
        "stop": address("people", job.person, "jobs", str(job.number), "stop"),
        "can_go_on": state in ("stopped", "interrupted", "failed"),
        "can_stop": state in ("waiting", "running"),
        "log": job.log().strip(),
    }


def progress_of(job: Job) -> dict[str, Any]:
    """Return what a job that is not over is doing: a line, and how much of it is done."""
    lines = [line for line in job.log().splitlines() if line.strip()]
    line = lines[-1].strip() if lines and job.pid is not None else ""
    found = DONE_OF.search(line)
    done = (float(found[1]), float(found[2])) if found else None
    if job.title == "train" and "--out" in job.words:
        subject = Path(job.words[job.words.index("--out") + 1])
        done = steps_done(subject) or done
    return {
        "title": TITLES.get(job.title, job.title),
        "state": STATES[job.state],
        "line": line,
        "done": done,
    }


def steps_done(subject: Path) -> tuple[float, float] | None:
    """Return the steps that a training has logged, of all; None before the first."""
    try:
        manifest = read_manifest(subject)
        with open(subject / METRICS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
        steps = manifest.recipe["phase1_steps"] + manifest.recipe["phase2_steps"]
    except (OSError, UsageError, KeyError, TypeError):
        return None
    if manifest.state == "complete":
        return None  # of the run before, which is about to be replaced
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):  # the first may be cut, the last torn
            return float(json.loads(line)["step"]), float(steps)
    return None


def stamp(jobs: Sequence[Job]) -> str:
    """Return a word that is another one when a job begins, ends or is asked for."""
    told = " ".join(f"{job.folder}:{job.state}" for job in jobs)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def of_style(jobs: Sequence[Job], folders: StyleFolders) -> list[Job]:
    """Return the jobs on a person in a style."""
    return [job for job in jobs if str(folders.subject) in job.words]


def latest(jobs: Sequence[Job], *titles: str) -> Job | None:
    """Return the last of the jobs that have one of these titles."""
    return next((job for job in reversed(jobs) if job.title in titles), None)


def plan_of(jobs: Sequence[Job], everything: Sequence[Job]) -> dict[str, Any] | None:
    """Return the plan of a style as it was made last; None where there is none.

    ``everything`` are the person's jobs: photos that were looked at since make a plan an old one.
    """
    job = latest(jobs, "plan")
    if job is None or job.state in OPEN:
        return None
    result = job.result() or {}
    looked_at = latest(everything, "mask")
    return {
        "number": job.number,
        "lines": [
            (PLAN.get(what, what.capitalize()), on_the_page(words))
            for what, words in result.get("lines", [])
        ],
        "advice": [
            on_the_page(sentence)
            for sentence in (*result.get("advice", []), *result.get("licences", []))
        ],
        "error": on_the_page(str(result.get("error", "")))
        or ("" if result else "The plan was not made."),
        "steps": result.get("steps"),
        "old": looked_at is not None and looked_at.number > job.number,
    }


def previews_of(folders: StyleFolders) -> list[dict[str, str]]:
    """Return the previews of a training, the newest first."""
    found = pictures_in(folders.subject / "samples")[::-1][:SHOWN_PREVIEWS]
    return [
        {
            "src": address("people", folders.person, "in", folders.style, "samples", path.name),
            "text": f"after step {path.stem.removeprefix('step-').lstrip('0') or '0'}",
        }
        for path in found
    ]


def shelf(folders: StyleFolders, kind: str) -> Callable[[str], str]:
    """Return how a picture of one of the style's folders is addressed by its name in it."""
    return lambda file: address("people", folders.person, "in", folders.style, kind, file)


def portrait_cards(folders: StyleFolders) -> tuple[list[dict[str, Any]], str]:
    """Return a card a portrait, most like the person first, and who judged that."""
    portraits, _ = listed(folders.portraits)
    where = shelf(folders, "portraits")
    cards = [
        {
            "src": where(file := picture.path.relative_to(folders.portraits).as_posix()),
            "value": f"portraits/{file}",
            "name": picture.path.name,
            "rank": picture.rank,
            "likeness": shown_likeness(picture),
            "word": verdict(picture)[0],
            "colour": "#{:02x}{:02x}{:02x}".format(*verdict(picture)[1]),
        }
        for picture in portraits
        if picture.path.is_file()
    ]
    return cards, who_judged(portraits) if portraits else ""


def edit_cards(folders: StyleFolders) -> list[dict[str, Any]]:
    """Return a card a picture whose words were changed."""
    where = shelf(folders, "edits")
    return [
        {
            "src": where(entry["file"]),
            "value": f"edits/{entry['file']}",
            "name": Path(entry["file"]).name,
            "prompt": in_braces(entry["prompt"]),
            "likeness": before_and_after(
                entry.get("identity"), entry.get("similarity_before"), entry["similarity"]
            ),
        }
        for entry in RankedFolder.listed(folders.edits)
        if entry.get("kind") == "edit" and (folders.edits / entry["file"]).is_file()
    ]


def prompts_of(folders: StyleFolders) -> list[str]:
    """Return the prompts of the portraits, each once, in the words of the page."""
    portraits, _ = listed(folders.portraits)
    told = (in_braces(str(picture.record.get("prompt", ""))) for picture in portraits)
    return [prompt for prompt in dict.fromkeys(told) if prompt][:SHOWN_PROMPTS]


def in_braces(prompt: str) -> str:
    """Return a prompt with its learned words as they are typed: ``{id}``, ``{style}``."""
    return prompt.replace(ID_TOKEN, "{id}").replace(STYLE_TOKEN, "{style}")


def before_and_after(network: Any, before: Any, after: Any) -> str:
    """Return a likeness before and after a change in words, and by which network; "" for none."""
    by = f" (by {network})" if network else ""
    if after is None:
        return ""
    return f"likeness {after:.3f}{by}" + ("" if before is None else f"; it was {before:.3f}")


def strange_before(item: Enhanced) -> bool:
    """Return whether the network of training did not know the person before finishing, either.

    Another one has judged the portrait, perhaps otherwise: the page does not contradict itself.
    """
    known = (item.record.get("subject") or {}).get("same_person")
    before, _ = enhancement_report.shown_similarity(item)
    return known is not None and before is not None and before < known


def finished_cards(folders: StyleFolders) -> list[dict[str, Any]]:
    """Return a card a finished picture, and its print sheet."""
    return [
        {
            "src": shelf(folders, kind)(item.path.name),
            "frame": words,
            "name": item.path.name,
            "size": "{} x {} pixels".format(*item.record["size"]),
            "word": "" if strange_before(item) else enhancement_report.verdict(item)[0],
            "likeness": before_and_after(
                item.record.get("identity"), *enhancement_report.shown_similarity(item)
            ),
            "unmet": [on_the_page(sentence) for sentence in item.unmet],
            "sheet": item.sheet and shelf(folders, kind)(f"sheets/{item.sheet.name}"),
        }
        for kind, (folder, words) in finished_folders(folders).items()
        for item in listed(folder)[1]
        if item.path.is_file()
    ]


def finished_folders(folders: StyleFolders) -> dict[str, tuple[Path, str]]:
    """Return the folders of finished pictures that are there, and what their frame is called.

    By what stands for each in an address.
    """
    frames = {"": "as the style asks", UNFRAMED: "frame left as it was"}
    frames |= {name: rule.title for name, rule in rules().documents.items()}
    found = {
        f"finished-{frame}".rstrip("-"): (folders.finished_in(frame), words)
        for frame, words in frames.items()
    }
    return {kind: each for kind, each in found.items() if each[0].is_dir()}


def picture_file(folders: StyleFolders, kind: str, file: str) -> Path | None:
    """Return a picture of the style by its folder and its name in it; None where it is none."""
    places = {
        "samples": (folders.subject / "samples", ("",)),
        "portraits": (folders.portraits, ("", "rest/")),
        "edits": (folders.edits, ("", "rest/")),
        **{kind: (at, ("", "sheets/")) for kind, (at, _) in finished_folders(folders).items()},
    }
    if kind not in places:
        return None
    folder, inner = places[kind]
    there = {
        f"{prefix}{path.name}": path
        for prefix in inner
        for path in pictures_in(folder / prefix)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
    }
    return there.get(file)
