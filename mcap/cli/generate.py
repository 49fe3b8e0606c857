"""``mcap generate``: a subject and a style in, ranked pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from mcap.cli.settings import Settings
    from mcap.generation.extra_networks import ExtraNetworks
    from mcap.generation.generate import GenerateSettings, GenerationFinished, Picture
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

EDITING = "Editing a finished picture"


def generate(
    ctx: typer.Context,
    subject: Annotated[
        Path, typer.Argument(help="The subject folder that mcap train wrote.", metavar="SUBJECT")
    ],
    style: Annotated[
        list[str] | None,
        typer.Option(
            help="Style profile, by name or path; more than once for several. Default: the one "
            "that the subject was trained with.",
            metavar="PROFILE",
            autocompletion=complete.profiles,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw this instead of the profile's prompt: {id} and {style} stand for the "
            "learned person and style; in a text without {id}, the word 'person' becomes the "
            "person. More than once: used in turn.",
            metavar="TEXT",
        ),
    ] = None,
    all_prompts: Annotated[
        bool, typer.Option("--all-prompts", help="Use all of the profile's prompts in turn.")
    ] = False,
    negative: Annotated[
        str | None, typer.Option(help="What must not be in the picture.", metavar="TEXT")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            help="How many pictures of each style. Default: the profile's number.",
            metavar="N",
            min=1,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Number that decides the first picture's noise, and so the picture; the next one "
            "has one more. The same seed draws the same picture again. Default: 0.",
            metavar="N",
            min=0,
            max=2**63 - 1,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the pictures go. Default: portraits; with --edit: edits.", metavar="DIR"
        ),
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(
            help="Keep the K most similar to the person of each style; the others go to DIR/rest.",
            metavar="K",
            min=1,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps from noise to picture: more are finer and take longer. Default: the "
            "backbone's or the profile's.",
            metavar="N",
            min=1,
            max=1000,
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            help="How closely to follow the prompt; much of it looks overdone. Default: the "
            "backbone's or the profile's.",
            metavar="X",
            min=0,
            max=50,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="The sampler, which takes the steps: ddim, euler-a, dpm++-2m-karras, ... as "
            "AUTOMATIC1111 and diffusers name them; a name that does not exist lists them all. "
            "Default: the profile's, else the backbone's own.",
            metavar="NAME",
            autocompletion=complete.schedulers,
        ),
    ] = None,
    adapter_scale: Annotated[
        float,
        typer.Option(
            help="Strength of what the network learned (the LoRA): 0 without it, 1 as trained.",
            metavar="X",
            min=0,
            max=2,
        ),
    ] = 1.0,
    token_scale: Annotated[
        float,
        typer.Option(
            help="Strength of the learned words (the tokens): 0 the plain words that they started "
            "from, 1 as trained.",
            metavar="X",
            min=0,
            max=2,
        ),
    ] = 1.0,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="A LoRA file of another program (.safetensors; kohya, AUTOMATIC1111, ComfyUI, "
            "diffusers), with its strength after a colon. More than once for several.",
            metavar="FILE[:WEIGHT]",
        ),
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            help="A textual-inversion file (.safetensors, .pt, .bin). Its name without the suffix "
            "is the word to write into --prompt or --negative. More than once for several.",
            metavar="FILE",
        ),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Another subject of the same backbone, with its LoRA's strength after a colon: "
            "{id2} and {style2} in --prompt; the next is {id3} and {style3}.",
            metavar="SUBJECT[:WEIGHT]",
        ),
    ] = None,
    format: Annotated[options.Format, options.FORMAT] = "png",
    quality: Annotated[int, options.QUALITY] = 95,
    metadata: Annotated[
        options.Metadata,
        typer.Option(
            help="What is written into the files. all: how they were drawn, and the mark that a "
            "machine made them; label: only that mark; none: nothing.",
        ),
    ] = "all",
    attention_maps: Annotated[
        bool,
        typer.Option(
            "--attention-maps",
            help="Also draw what each learned word looks at, as attention-maps.jpg.",
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Pictures drawn at once; fewer need less memory.", metavar="N", min=1),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Where the subject's backbone is now, if it was moved, or another one (with "
            "--force): a name, a folder, a .safetensors checkpoint or a hub id.",
            metavar="BACKBONE",
            autocompletion=complete.backbones,
        ),
    ] = None,
    edit: Annotated[
        list[Path] | None,
        typer.Option(
            help="Change a picture that mcap drew: it is drawn again with other words and keeps "
            "its composition. With --replace, --weight or --prompt; more than once for several.",
            metavar="PICTURE",
            rich_help_panel=EDITING,
        ),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            help="Words of the picture's prompt and what to put in their place.",
            metavar="OLD=NEW",
            rich_help_panel=EDITING,
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="By how much a word counts: 2 more, 0.5 less, 0 not at all, below 0 away from it.",
            metavar="WORD:FACTOR",
            rich_help_panel=EDITING,
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="How much of the composition stays, 0 to 1: the share of the steps in which it "
            "is held. Default: 0.8.",
            metavar="SHARE",
            min=0,
            max=1,
            rich_help_panel=EDITING,
        ),
    ] = None,
    layout: Annotated[
        float | None,
        typer.Option(
            help="The share of the steps in which shapes stay where they are, too. Default: half "
            "of --keep.",
            metavar="SHARE",
            min=0,
            max=1,
            rich_help_panel=EDITING,
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Change the picture only where the changed words look.",
            rich_help_panel=EDITING,
        ),
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Change the picture only where these words of the old or the new prompt look.",
            metavar="WORDS",
            rich_help_panel=EDITING,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Draw although the backbone or the style is not the one that it was trained with.",
        ),
    ] = False,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
) -> None:
    """Draw pictures of a subject, most similar to the person first.

    Beside the pictures: contact-sheet.jpg, results.jsonl and report.html. Pictures that are there
    already, of the same settings and seed, are kept and not drawn again.

    Examples:

      mcap generate me.mcap --count 8 --out portraits

      mcap generate me.mcap --count 32 --best 4 --seed 100

      mcap generate me.mcap --prompt "a photo of a person in the {style} style, smiling"

      mcap generate me.mcap --lora film.safetensors:0.6

      mcap generate me.mcap --adapter-scale 0.7 --with you.mcap:0.7 --prompt "{id} and {id2}"

      mcap generate me.mcap --edit portraits/passport-000003.png --replace white=blue

      mcap generate me.mcap --edit portraits/passport-000003.png --weight "{style}:1.5"
    """
    from mcap.cli.edit import check_options, edit_settings, run_edit
    from mcap.cli.notify_plugins import tell_plugins
    from mcap.cli.output import emit, note, warn
    from mcap.cli.settings import load_settings
    from mcap.diffusion.schedulers import find as find_scheduler
    from mcap.generation.extra_networks import read_addons
    from mcap.generation.generate import GenerateSettings
    from mcap.results.folder import require_own
    from mcap.subjects.subject import read_subject

    check_options(ctx, editing=bool(edit))
    out = out or Path("edits" if edit else "portraits")
    require_own(out, "edit" if edit else "generate")
    settings = load_settings(ctx.obj, seed=seed, device=device, precision=precision)
    if edit:
        changes = edit_settings(
            replace=replace or (),
            weight=weight or (),
            prompt=prompt or (),
            keep=keep,
            layout=layout,
            local=local,
            where=tuple(where or ()),
            batch_size=batch_size,
            format=format,
            quality=quality,
            metadata=metadata,
        )
        person = read_subject(subject)
        addons = read_addons(with_ or (), lora or (), embedding or ())
        run_edit(ctx, person, edit, settings, changes, addons, out, backbone, force)
        return
    wanted = GenerateSettings(
        count=count,
        seed=settings.seed or 0,
        prompts=tuple(prompt or ()),
        all_prompts=all_prompts,
        negative=negative,
        steps=steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler and find_scheduler(scheduler),
        adapter_scale=adapter_scale,
        token_scale=token_scale,
        batch_size=batch_size,
        best=best,
        format=format,
        quality=quality,
        metadata=metadata,
        attention_maps=attention_maps,
    )
    person = read_subject(subject)
    profiles = _profiles(person, style, wanted.prompts, force)
    for profile in profiles:
        if profile.notice:
            note(ctx, f"{profile.name}: {profile.notice}")
    addons = read_addons(with_ or (), lora or (), embedding or ())
    for companion in addons.companions:
        slots = companion.slots
        if not any(slot in text for slot in slots for text in wanted.prompts):
            said = " or ".join(slots)
            name = companion.subject.path
            warn(ctx, f"--with {name}: no --prompt says {said}, so only its LoRA takes part.")
    finished = _draw(ctx, person, profiles, settings, wanted, addons, out, backbone, force)
    tell_plugins(ctx, finished.pictures)
    emit(ctx, _result(person, out, finished), lambda console: _print(console, finished))


def _profiles(
    subject: Subject, styles: list[str] | None, prompts: tuple[str, ...], force: bool
) -> list[StyleProfile]:
    from mcap.contracts import STYLE_TOKEN
    from mcap.errors import UsageError
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    # A prompt that leaves the learned style out may go with the framing of any profile.
    free = prompts and not any("{style}" in text or STYLE_TOKEN in text for text in prompts)
    trained = subject.manifest.profile.name
    profiles = [find_profile(style, registry().profile_dirs) for style in styles or [trained]]
    for profile in profiles:
        if profile.name != trained and not (force or free):
            raise UsageError(
                f"--style {profile.name}: {subject.path} was trained with the style '{trained}', "
                "and its style token means that one. Train on the other style too, give "
                "--prompt without {style}, or draw anyway with --force."
            )
    return profiles


def _draw(
    ctx: typer.Context,
    subject: Subject,
    profiles: list[StyleProfile],
    settings: Settings,
    wanted: GenerateSettings,
    addons: ExtraNetworks,
    out: Path,
    backbone_name: str | None,
    force: bool,
) -> GenerationFinished:
    from mcap.cli.backbone import load_backbone
    from mcap.cli.interruption import with_pictures_kept
    from mcap.cli.output import note
    from mcap.cli.progress import progress
    from mcap.generation.generate import GenerationFinished, PictureReady, Planned, check_backbone
    from mcap.generation.generate import generate as run
    from mcap.registry import registry
    from mcap.runtime.device import set_threads
    from mcap.runtime.memory import translate_oom

    set_threads(settings.threads)
    identity = registry().create("identity", subject.identity_network)
    detector = registry().create("detector", settings.detector)
    backbone = load_backbone(subject, settings, backbone_name)
    if not force:
        for person in (subject, *(companion.subject for companion in addons.companions)):
            check_backbone(person, backbone.info)

    advance: list[Any] = []
    events = run(
        subject,
        profiles,
        backbone,
        identity,
        detector,
        out,
        wanted,
        addons=addons,
        on_step=lambda pictures: advance[0](pictures),
    )
    advice = "Draw fewer pictures at once with --batch-size 1."
    ready = 0
    try:
        with translate_oom("drawing", advice):
            plan = next(events)
            assert isinstance(plan, Planned)
            there = plan.pictures - plan.to_draw
            note(
                ctx,
                f"{subject.name}, {', '.join(profile.name for profile in profiles)}: "
                f"{plan.to_draw} pictures to draw"
                + (f", {there} are there already" if there else "")
                + f"; backbone {backbone.info.id} on {backbone.device}.",
            )
            with progress(ctx, "drawing", plan.steps, unit="steps") as bar:
                advance.append(bar.advance)
                for event in events:
                    if isinstance(event, PictureReady):
                        ready += 1
                    if isinstance(event, GenerationFinished):
                        return event
    except KeyboardInterrupt:
        events.close()
        raise with_pictures_kept(ready, out) from None
    raise AssertionError("generate() ends with GenerationFinished")


def _result(subject: Subject, out: Path, finished: GenerationFinished) -> dict[str, Any]:
    return {
        "subject": subject.name,
        "out": out,
        "pictures": [
            {
                "rank": picture.rank,
                "file": picture.path,
                "similarity": picture.similarity,
                "style": picture.style,
                "seed": picture.record["seed"],
                "kept": picture.kept,
                "new": picture.new,
            }
            for picture in finished.pictures
        ],
        "identity": subject.identity_network,
        "results": finished.results,
        "report": finished.report,
        "attention_maps": finished.attention_maps,
        "contact_sheet": finished.contact_sheet,
    }


def _print(console: Any, finished: GenerationFinished) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("similarity", justify="right")
    table.add_column("seed", justify="right")
    table.add_column("picture", overflow="fold")
    table.add_column("")
    for picture in finished.pictures:
        table.add_row(
            str(picture.rank),
            "-" if picture.similarity is None else f"{picture.similarity:.3f}",
            str(picture.record["seed"]),
            str(picture.path),
            _remark(picture),
        )
    console.print(table)
    console.print(f"Report: {finished.report}", markup=False)
    if finished.attention_maps:
        console.print(f"Attention maps: {finished.attention_maps}", markup=False)
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)


def _remark(picture: Picture) -> str:
    remarks = []
    if picture.similarity is None:
        remarks.append("no face found")
    if not picture.new:
        remarks.append("was there already")
    return ", ".join(remarks)
