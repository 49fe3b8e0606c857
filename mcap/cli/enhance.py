"""``mcap enhance``: pictures in; larger, restored, framed pictures of the same person out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete

if TYPE_CHECKING:
    from mcap.contracts import Float32Array
    from mcap.enhance import Enhanced, Finished, Framing, Stage, Tools
    from mcap.enhance_settings import EnhanceSettings
    from mcap.registry import Entry
    from mcap.settings import Settings

FORMATS = ("png", "jpg", "webp")
METADATA = ("all", "label", "none")
OWN_FILES = {"contact-sheet.jpg", "attention-maps.jpg", "results.jsonl", "report.html"}
"""What mcap generate and enhance write beside their pictures."""


def enhance(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Pictures, folders of them, or - for paths on standard input."
        ),
    ],
    restorer: Annotated[
        str | None,
        typer.Option(
            help="Restorers in the order in which they work, separated by commas; a name or a "
            "file (.safetensors, .pth); none: only what --profile asks for. Default: demo-sr, "
            "which needs no download.",
            metavar="A,B",
            autocompletion=complete.restorers,
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")] = Path(
        "enhanced"
    ),
    profile: Annotated[
        str | None,
        typer.Option(
            help="Frame, cut out and size the pictures as this style profile asks.",
            autocompletion=complete.profiles,
        ),
    ] = None,
    print_sheet: Annotated[
        bool,
        typer.Option(
            "--print-sheet",
            help="With --profile: also a 10 x 15 cm sheet with as many copies as fit.",
        ),
    ] = False,
    subject: Annotated[
        Path | None,
        typer.Option(
            help="Who is in the pictures: a subject folder, a photo or a folder of photos. "
            "Likeness is then measured to this person.",
            metavar="SUBJECT|PHOTO",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            help="Times as many pixels on a side; default: the restorers' own.", min=0.1, max=16
        ),
    ] = None,
    fidelity: Annotated[
        float | None,
        typer.Option(help="0: best looking, 1: closest to the input (codeformer).", min=0, max=1),
    ] = None,
    denoise: Annotated[
        float | None,
        typer.Option(help="0: noise is kept, 1: taken away (realesrgan-general).", min=0, max=1),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Pixels worked on at once; fewer need less memory. Default: 512.", min=32
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="png, jpg or webp.", metavar="FORMAT")] = None,
    quality: Annotated[
        int | None, typer.Option(help="Of jpg and webp; 100 in webp is lossless.", min=1, max=100)
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(
            help="all: what the input carries, and how it was enhanced; label: only the mark "
            "where the picture comes from; none: nothing.",
            metavar="WHAT",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Use restorations that change the person too much."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done and fetched; do nothing."),
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Face detector; mcap plugins lists them.", autocompletion=complete.detectors
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(help="Face-recognition network.", autocompletion=complete.identities),
    ] = None,
    masker: Annotated[
        str | None,
        typer.Option(help="Where restored faces end.", autocompletion=complete.maskers),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
) -> None:
    """Enlarge and restore pictures, and keep the person in them the same.

    Every face is measured before and after. Of a restoration that changes a face too much only so
    much is used as keeps the person, or nothing; --force uses it all. Inputs are never changed, and
    pictures that are there already, of the same settings, are kept.

    Examples:

      mcap enhance portraits --out print

      mcap enhance portrait.png --restorer realesrgan,gfpgan

      mcap enhance portrait.jpg --profile passport --print-sheet

      mcap enhance portraits --subject me.mcap --restorer realesrgan,codeformer --fidelity 0.8
    """
    from mcap.cli.output import emit, note, warn
    from mcap.errors import InputRefused, UsageError
    from mcap.photos import find_photos
    from mcap.registry import registry
    from mcap.settings import load_settings

    for name, value, allowed in (("format", format, FORMATS), ("metadata", metadata, METADATA)):
        if value is not None and value not in allowed:
            raise UsageError(f"--{name} {value}: is unknown; allowed are {', '.join(allowed)}.")
    settings = load_settings(
        ctx.obj,
        detector=detector,
        identity=identity,
        masker=masker,
        device=device,
        precision=precision,
    )
    names = None
    if restorer is not None:
        names = tuple(part for name in restorer.split(",") if (part := name.strip()))
        names = () if names == ("none",) else names
        if not names and restorer.strip() != "none":
            raise UsageError("--restorer: is empty; name a restorer, or none.")
    given = {
        "restorers": names,
        "scale": scale,
        "fidelity": fidelity,
        "denoise": denoise,
        "tile": tile,
        "format": format,
        "quality": quality,
        "metadata": metadata,
        "guard": "off" if force else None,
    }
    wanted = settings.enhance.model_copy(
        update={key: value for key, value in given.items() if value is not None}
    )
    entries = [_entry(name) for name in wanted.restorers]
    framing = _framing(ctx, profile, print_sheet, settings)
    paths = [path for path in find_photos(inputs) if not _own_file(path, inputs)]
    if not paths:
        raise InputRefused(
            f"No files in {', '.join(inputs)}. A folder stands for the files directly in it."
        )
    if dry_run:
        plan = _plan(paths, entries, wanted, settings, framing)
        emit(ctx, {"dry_run": True, **plan}, lambda console: _print_plan(console, plan))
        return
    finished = _run(ctx, paths, entries, wanted, settings, framing, subject, out)
    for picture in finished.pictures:
        for told in picture.losses:
            warn(ctx, f"{picture.source.name}: {told}")
        if picture.new:
            for told in picture.notes:
                note(ctx, f"{picture.source.name}: {told}")
            for failure in registry().image_saved(picture.path, picture.record):
                warn(ctx, f"plugin {failure}")
    for item in finished.refused:
        warn(ctx, f"{item.source}: {item.reason}")
    result = _result(out, finished)
    if not finished.pictures:
        lines = "\n".join(f"  {item.source}: {item.reason}" for item in finished.refused)
        raise InputRefused(f"No picture that can be enhanced:\n{lines}", details=result)
    emit(ctx, result, lambda console: _print(console, finished))


def _own_file(path: Path, inputs: list[str]) -> bool:
    """A file of mcap's own beside the pictures of a folder; named alone, it is a picture."""
    return (
        path.name in OWN_FILES
        and str(path) not in inputs
        and (path.parent / "results.jsonl").is_file()
    )


def _entry(name: str) -> tuple[str, Entry, Path | None]:
    """What a name or a file stands for: how it is called, the restorer's entry, the file."""
    from mcap.errors import UsageError
    from mcap.registry import registry

    found = registry()
    path = Path(name).expanduser()
    if name in found.entries["restorer"] or not (path.suffix or len(path.parts) > 1):
        return name, found.get("restorer", name), None
    if not path.is_file():
        known = ", ".join(found.names("restorer")) or "none"
        raise UsageError(
            f"--restorer {name}: there is no such file, and no restorer of that name; there are: "
            f"{known}."
        )
    for entry in found.entries["restorer"].values():
        if path.suffix.lower() in entry.facts.get("reads", ()):
            return path.stem, entry, path
    raise UsageError(f"--restorer {name}: no installed plugin reads {path.suffix} files.")


def _framing(
    ctx: typer.Context, name: str | None, print_sheet: bool, settings: Settings
) -> Framing | None:
    from mcap.cli.output import note
    from mcap.enhance import Framing
    from mcap.errors import UsageError
    from mcap.profile import find_profile
    from mcap.registry import registry

    if name is None:
        if print_sheet:
            raise UsageError("--print-sheet: goes with --profile, which says how large a print is.")
        return None
    profile = find_profile(name, registry().profile_dirs)
    if print_sheet:
        from mcap.print_sheet import layout

        if profile.size_mm is None:
            raise UsageError(
                f"--print-sheet: the profile '{profile.name}' has no size_mm; add it to "
                f"{profile.path}."
            )
        layout(profile.size_mm)  # a picture too large for the paper is told before the work
    if profile.notice:
        note(ctx, f"{profile.name}: {profile.notice}")
    return Framing(profile, settings.finish, print_sheet)


def _run(
    ctx: typer.Context,
    paths: list[Path],
    entries: list[tuple[str, Entry, Path | None]],
    wanted: EnhanceSettings,
    settings: Settings,
    framing: Framing | None,
    subject: Path | None,
    out: Path,
) -> Finished:
    from mcap.cli.output import note
    from mcap.cli.progress import progress
    from mcap.enhance import Finished, Planned, Refused, Tools
    from mcap.enhance import enhance as run
    from mcap.errors import Interrupted
    from mcap.registry import registry
    from mcap.training.device import choose_device, out_of_memory_is_ours, set_threads

    set_threads(settings.threads)
    device = choose_device(settings.device)
    made = registry()
    replaces = framing is not None
    tools = Tools(
        detector=made.create("detector", settings.detector),
        identity=made.create("identity", settings.identity),
        masker=made.create("masker", settings.masker),
        person_masker=_person_masker(ctx) if replaces else None,
    )
    person = None if subject is None else _person(subject, tools, settings)
    advance: list[Any] = []
    ready = 0
    try:
        with out_of_memory_is_ours("enhancing", "Try --tile 128, or --device cpu."):
            stages = _stages(ctx, entries, wanted)
            events = run(
                paths,
                stages,
                tools,
                out,
                wanted,
                photos=settings.photos,
                faces=settings.faces,
                framing=framing,
                person=person,
                device=device,
                half=device.type == "cuda" and settings.precision in ("auto", "fp16"),
                on_progress=lambda pieces: advance[0](pieces),
            )
            plan = next(events)
            assert isinstance(plan, Planned)
            there = plan.pictures - plan.to_do
            names = ", ".join(stage.name for stage in stages) or "no restorer"
            note(
                ctx,
                f"{plan.to_do} picture{'' if plan.to_do == 1 else 's'} to enhance with {names} on "
                f"{device}" + (f"; {there} are there already or refused" if there else "") + ".",
            )
            with progress(ctx, "enhancing", plan.tiles, unit="tiles") as bar:
                advance.append(bar.advance)
                for event in events:
                    if isinstance(event, Finished):
                        return event
                    ready += not isinstance(event, Refused)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. {ready} of the pictures are in {out}; the same command again goes on."
        ) from None
    raise AssertionError("enhance() ends with Finished")


def _stages(
    ctx: typer.Context, entries: list[tuple[str, Entry, Path | None]], wanted: EnhanceSettings
) -> list[Stage]:
    from mcap.cli.output import note, warn
    from mcap.enhance import Stage
    from mcap.registry import registry

    stages = []
    for name, entry, path in entries:
        restorer = registry().create("restorer", entry.name, *(() if path is None else (path,)))
        if not entry.commercial and not any(need in _weights() for need in entry.needs):
            note(ctx, f"{name}: licence: {entry.licence}")
        stages.append(Stage(name, restorer, _weights_sha256(entry, path)))
    for key in ("fidelity", "denoise"):
        value = getattr(wanted, key)
        having = [stage for stage in stages if hasattr(stage.restorer, key)]
        if value is None:
            continue
        if not having:
            warn(ctx, f"--{key}: none of the restorers has it.")
        for stage in having:
            setattr(stage.restorer, key, value)
    return stages


def _weights() -> Any:
    from mcap.weights import WEIGHTS

    return WEIGHTS


def _weights_sha256(entry: Entry, path: Path | None) -> str | None:
    """Of the restorer's file; of several, the hash over their hashes."""
    import hashlib

    from mcap.atomic import sha256_of
    from mcap.weights import local_path

    files = [path] if path else [local_path(name) for name in entry.needs if name in _weights()]
    hashes = [sha256_of(file) for file in files if file is not None and file.is_file()]
    if len(hashes) <= 1:
        return hashes[0] if hashes else None
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _person_masker(ctx: typer.Context) -> Any:
    """The masker that tells a person from the background; without it a profile's framing is all."""
    from mcap.cli.output import warn
    from mcap.errors import Missing
    from mcap.registry import registry

    try:
        return registry().create("masker", "person")
    except Missing as missing:
        warn(ctx, f"The background is not replaced: {missing}")
        return None


def _person(subject: Path, tools: Tools, settings: Settings) -> Float32Array:
    """The mean embedding of a subject folder, of a photo's largest face or of several photos'."""
    import numpy as np

    from mcap.errors import InputRefused, UsageError
    from mcap.faces import find_faces
    from mcap.photos import find_photos, read_photo
    from mcap.subject import MANIFEST, read_subject

    if (subject / MANIFEST).is_file():
        known = read_subject(subject)
        if known.identity_network != tools.identity.name:
            raise UsageError(
                f"--subject {subject}: the person was embedded by '{known.identity_network}'; use "
                f"--identity {known.identity_network}."
            )
        return known.identity_embedding
    found = []
    for path in find_photos([subject]):
        try:
            image = read_photo(path, settings.photos).image
        except InputRefused:
            if not subject.is_dir():
                raise
            continue
        faces = find_faces(image, tools.detector, tools.identity, settings.faces)
        found += [faces[0].embedding] if faces else []
    if not found:
        raise InputRefused(f"--subject {subject}: there is no face that the detector is sure of.")
    mean = np.mean(found, axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)


def _plan(
    paths: list[Path],
    entries: list[tuple[str, Entry, Path | None]],
    wanted: EnhanceSettings,
    settings: Settings,
    framing: Framing | None,
) -> dict[str, Any]:
    """What would be done, from the files' heads and the restorers' facts alone."""
    from mcap.enhance import result_size
    from mcap.errors import InputRefused
    from mcap.picture_file import size_of
    from mcap.registry import registry
    from mcap.weights import local_path

    scales = [entry.facts.get("scale") for _, entry, _ in entries]
    kinds = [entry.facts.get("kind", "image") for _, entry, _ in entries]
    image_scales = [scale for scale, kind in zip(scales, kinds, strict=True) if kind == "image"]
    known = wanted.scale is not None or None not in image_scales
    pictures, refused = [], []
    for path in paths:
        try:
            size = size_of(path, settings.photos)
        except InputRefused as refusal:
            refused.append({"file": path, "reason": str(refusal)})
            continue
        result = result_size(size, image_scales, wanted.scale) if known else None
        pictures.append({"file": path, "size": list(size), "result": result and list(result)})
    found = registry()
    used = [entry for _, entry, _ in entries]
    names = {"detector": settings.detector, "identity": settings.identity}
    names["masker"] = settings.masker
    used += [found.get(kind, name) for kind, name in names.items()]
    if framing is not None:
        used += [found.entries["masker"][n] for n in ("person",) if n in found.entries["masker"]]
    weights = [
        {
            "name": weight.name,
            "bytes": weight.bytes,
            "licence": weight.licence,
            "commercial": weight.commercial,
            "here": local_path(weight.name) is not None,
        }
        for name in dict.fromkeys(need for entry in used for need in entry.needs)
        if (weight := _weights().get(name)) is not None
    ]
    return {
        "restorers": [
            {"name": name, "licence": entry.licence, "commercial": entry.commercial}
            for name, entry, _ in entries
        ],
        "profile": framing.profile.name if framing else None,
        "pictures": pictures,
        "refused": refused,
        "weights": weights,
    }


def _print_plan(console: Any, plan: dict[str, Any]) -> None:
    from mcap.cli.output import human_bytes

    def line(text: str) -> None:
        console.print(text, markup=False)

    names = ", ".join(f"{r['name']} ({r['licence']})" for r in plan["restorers"])
    line(f"Restorers: {names or 'none'}")
    if plan["profile"]:
        line(f"Profile: {plan['profile']}")
    for item in plan["pictures"]:
        made = "{} x {}".format(*item["result"]) if item["result"] else "as the file's scale is"
        line(f"{item['file']}: {item['size'][0]} x {item['size'][1]} to {made}")
    for item in plan["refused"]:
        line(f"refused: {item['reason']}")
    for item in plan["weights"]:
        where = "is here" if item["here"] else f"to fetch, {human_bytes(item['bytes'])}"
        use = "" if item["commercial"] else "; no commercial use"
        line(f"Weight {item['name']}: {where}; {item['licence']}{use}")


def _result(out: Path, finished: Finished) -> dict[str, Any]:
    return {
        "out": out,
        "pictures": [
            {
                "file": picture.path,
                "input": picture.source,
                "size": picture.record["size"],
                "faces": picture.faces,
                "held_back": picture.losses,
                "notes": picture.notes,
                "finish": picture.record["finish"],
                "sheet": picture.sheet,
                "new": picture.new,
            }
            for picture in finished.pictures
        ],
        "refused": [{"input": item.source, "reason": item.reason} for item in finished.refused],
        "results": finished.results,
        "report": finished.report,
        "contact_sheet": finished.contact_sheet,
    }


def _print(console: Any, finished: Finished) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("picture", "pixels", "before", "after", "faces"):
        table.add_column(name, overflow="fold")
    for picture in finished.pictures:
        width, height = picture.record["size"]
        worst = _worst(picture)
        table.add_row(
            str(picture.path),
            f"{width} x {height}",
            "-" if worst is None else f"{worst['similarity_before']:.3f}",
            "-" if worst is None else f"{worst['similarity_after']:.3f}",
            _remark(picture),
        )
    console.print(table)
    console.print(f"Report: {finished.report}", markup=False)
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)


def _worst(picture: Enhanced) -> dict[str, Any] | None:
    """The face that lost the most."""
    faces = [face for face in picture.faces if face["similarity_after"] is not None]
    return min(
        faces,
        key=lambda face: face["similarity_after"] - face["similarity_before"],
        default=None,
    )


def _remark(picture: Enhanced) -> str:
    from mcap.enhance_report import verdict

    remarks = [verdict(picture)[0]]
    if not picture.new:
        remarks.append("was there already")
    return ", ".join(remarks)
