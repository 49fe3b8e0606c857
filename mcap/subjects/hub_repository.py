"""A subject as a repository of the Hugging Face hub: the files that go there, and the sending.

    README.md           the model card
    NAME.safetensors, NAME-id.safetensors, NAME.py, ...     as ``--format diffusers`` writes them
    kohya/              as ``--format kohya`` does, where other programs can load the subject
    samples/            generated pictures, where some were given

Nothing else leaves the machine: no photograph, face embedding, image prompt, manifest or preview;
no folder of this machine, and no name but the one that was given for sharing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mcap
from mcap.errors import McapError, UsageError
from mcap.images.marking import NO_MARKS, Marks
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from mcap.images.provenance import TRAINED_ALGORITHMIC_MEDIA, declared, mark_only
from mcap.images.write import write_generated
from mcap.runtime.files import sha256_of
from mcap.subjects.base_model import MAIN, base_model
from mcap.subjects.export import Exported, export, file_name, write_unless_same
from mcap.subjects.model_card import KOHYA, Card, is_for_all
from mcap.weights import cache
from mcap.weights.hub import hidden_progress_bars, reach_hub
from mcap.weights.transports import in_one_line

if TYPE_CHECKING:
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

CARD = "README.md"
SAMPLES = "samples"
UNNAMED = "a model of the author's"
"""A folder or file of this machine, whose name is nobody else's business."""
ALL_PIXELS = PhotoSettings(max_side=16_384)
"""A sample keeps the pixels that it has."""


@dataclass(frozen=True)
class Target:
    """The repository that a subject is to be sent to."""

    repository: str
    """OWNER/NAME."""
    public: bool = False
    force: bool = False
    """Replace other files of the same names."""


@dataclass(frozen=True)
class Sent:
    """The outcome of a sending."""

    url: str
    private: bool
    files: tuple[str, ...]
    """Paths in the repository that were sent; those that were there already are left out."""


def require_repository(text: str, option: str) -> str:
    """Return ``text``; `UsageError` where it is no OWNER/NAME as the hub takes it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise UsageError(f"{option} {text}: {in_one_line(error)}") from None
    if "/" not in text:
        raise UsageError(
            f"{option} {text}: give OWNER/NAME, the owner being who has it on the hub."
        )
    return text


def require_shareable(subject: Subject) -> None:
    """Raise `UsageError` for a subject that is nothing but an embedding of its photos."""
    recipe = subject.manifest.recipe
    steps = sum(recipe.get(key) or 0 for key in ("phase1_steps", "phase2_steps"))
    if subject.encoded is not None or (recipe.get("identity_start") == "encoder" and not steps):
        raise UsageError(
            f"--push-to-hub: {subject.path} was made by the recipe '{recipe.get('name')}': it is "
            "an embedding of the photos, and none leaves this machine. Train it with another "
            "recipe, such as magicapture, to share it."
        )


def hub_token() -> str:
    """Return the token that the hub's own tools use; `UsageError` offline or without one."""
    from huggingface_hub import get_token

    if cache.offline():
        raise UsageError(
            "--push-to-hub: mcap is offline (--offline, MCAP_OFFLINE or HF_HUB_OFFLINE), and "
            "sending needs the network. --dry-run writes the files and sends nothing."
        )
    try:
        token = get_token()
    except Exception as error:  # of a CI's exchange of tokens, whose errors are its transport's
        raise McapError(f"--push-to-hub: no token was given out: {in_one_line(error)}.") from None
    if token is None:
        raise UsageError(
            "--push-to-hub: there is no token of the Hugging Face hub. Log in with hf auth login, "
            "or set HF_TOKEN to one that may write."
        )
    return token


def public_subject(subject: Subject, base: str | None) -> Subject:
    """Return the subject with a backbone that names a repository of the hub or nothing.

    ``base`` is OWNER/NAME of the model, where its author says that the local one is this.
    """
    backbone, known = subject.manifest.backbone, base_model(subject.manifest.backbone)
    if base is not None:
        named: dict[str, str | None] = {"name": base, "source": base, "id": base, "revision": MAIN}
    elif known is not None:
        named = {"id": known.repo, "revision": known.revision or MAIN}
    elif backbone.name == "demo" and backbone.source is None:
        named = {}  # mcap's own
    else:
        named = {"name": "unnamed", "source": None, "id": UNNAMED}
    record = backbone.model_copy(update=named)
    return replace(subject, manifest=subject.manifest.model_copy(update={"backbone": record}))


def write_samples(pictures: Iterable[Path], folder: Path, marks: Marks = NO_MARKS) -> list[Path]:
    """Write generated pictures anew, with the marks alone, and return the files.

    They are called after their source's hash, and one that is there already stays.
    `InputRejectedError` for what is no picture, `UsageError` for one that is not marked as
    generated: it may be a photograph.
    """
    found = []
    for path in pictures:
        if declared(path) != TRAINED_ALGORITHMIC_MEDIA:
            raise UsageError(
                f"--sample {path}: is not marked as generated, so it may be a photograph. Give "
                "pictures that mcap generate wrote."
            )
        photo = read_photo(path, ALL_PIXELS)
        target = folder / SAMPLES / f"{photo.sha256[:16]}.png"
        if not target.exists():
            write_generated(target, photo.image, mark_only(marks))
        found.append(target)
    return found


def write_repository(
    subject: Subject,
    target: Target,
    folder: Path,
    *,
    name: str,
    profile: StyleProfile | None = None,
    samples: Sequence[Path] = (),
) -> tuple[Exported, dict[str, Path]]:
    """Write the files of a repository into ``folder``.

    Returns what was exported for diffusers, and path in the repository -> file. Everything is
    called ``name``; ``samples`` lie in the folder already. Raises as `mcap.subjects.export.export`.
    """
    name = file_name(name)
    done = export(subject, "diffusers", folder, name=name, profile=profile, force=target.force)
    files = [*done.files, *samples]
    if is_for_all(subject):
        there = folder / KOHYA
        kohya = export(subject, "kohya", there, name=name, profile=profile, force=target.force)
        files += kohya.files
    shown = [path.relative_to(folder).as_posix() for path in samples]
    card = Card(subject, target.repository, name, profile, shown)
    write_unless_same({folder / CARD: card.text().encode()}, target.force)
    files.append(folder / CARD)
    return done, {path.relative_to(folder).as_posix(): path for path in files}


def send(files: Mapping[str, Path], target: Target, token: str, message: str) -> Sent:
    """Send files to a repository of the hub, which is made where it is not there, in one commit.

    `UsageError` where it is as visible as was not asked for, or holds other files of these names
    (without ``force``); `mcap.errors.McapError` where the hub refuses or cannot be reached. Files
    that are there already are not sent again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    api = HfApi(
        endpoint=constants.ENDPOINT,
        token=token,
        library_name="mcap",
        library_version=mcap.__version__,
    )
    repository = target.repository
    try:
        reach_hub()
        with hidden_progress_bars():
            url = api.create_repo(repository, private=not target.public, exist_ok=True)
            private = bool(api.repo_info(repository).private)
            require_visibility(target, private)
            new, other = changed(files, api.get_paths_info(repository, list(files)))
            if other and not target.force:
                raise UsageError(
                    f"--push-to-hub {repository}: {', '.join(other)} is there already and is "
                    "another file; give --force to replace it (the hub keeps the earlier one in "
                    "its history), or another name."
                )
            if new or other:
                api.create_commit(
                    repository,
                    operations=[
                        CommitOperationAdd(path_in_repo=path, path_or_fileobj=files[path])
                        for path in (*new, *other)
                    ],
                    commit_message=message,
                )
    except McapError:
        raise
    except Exception as error:  # the hub's library raises its transport's errors too
        reason = in_one_line(error).replace(token, "(token)")
        raise McapError(
            f"--push-to-hub {repository}: the hub has not taken it: {reason} Check the name, "
            "that the token may write there, and the network; the same command goes on."
        ) from None
    return Sent(str(url), private, tuple([*new, *other]))


def require_visibility(target: Target, private: bool) -> None:
    """Raise `UsageError` where a repository is public and was not asked to be, or the reverse."""
    if not private and not target.public:
        raise UsageError(
            f"--push-to-hub {target.repository}: is there already and is public, so that everybody "
            "could see the person. Nothing was sent; give --public where that is meant, or another "
            "name."
        )
    if private and target.public:
        raise UsageError(
            f"--push-to-hub {target.repository}: is there already and is private. Nothing was "
            "sent; leave --public out, and make it public on the hub's page where that is meant."
        )


def changed(files: Mapping[str, Path], there: Iterable[Any]) -> tuple[list[str], list[str]]:
    """Return the paths that a repository does not have, and those of which it has other bytes.

    ``there`` are `huggingface_hub.hf_api.RepoFile` of these paths.
    """
    from huggingface_hub.utils.sha import git_hash

    known = {entry.path: entry for entry in there}
    new = [path for path in files if path not in known]
    other = []
    for path in files.keys() & known.keys():
        large = getattr(known[path], "lfs", None)
        if large is not None:
            same = large.sha256 == sha256_of(files[path])
        else:
            same = getattr(known[path], "blob_id", None) == git_hash(files[path].read_bytes())
        if not same:
            other.append(path)
    return new, sorted(other)
