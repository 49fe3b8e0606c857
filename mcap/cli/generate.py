"""``mcap generate``: a subject and a style in, ranked pictures out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.generation.events import GenerationEvent, GenerationFinished
    from mcap.generation.extra_networks import ExtraNetworks
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

NO_FRAME = "none"
SUBJECT = typer.Argument(help="The subject folder that mcap train wrote.", metavar="SUBJECT")
STYLE = typer.Option(
    help="Style profile, by name or path; more than once for several. Default: the one that the "
    "subject was trained with.",
    metavar="PROFILE",
    autocompletion=complete.profiles,
)
FRAME = typer.Option(
    help="Frame the pictures as this style profile asks, whatever their style, and draw the border "
    "that a picture lacks for it, with the same subject; 'none': cut, and draw no border. Default: "
    "as their own style asks.",
    metavar="PROFILE",
    autocompletion=complete.profiles,
)
PROMPT = typer.Option(
    help="Draw this instead of the profile's prompt: {id} and {style} stand for the learned person "
    "and style; in a text without {id}, the word 'person' (or what the subject is called) becomes "
    "the subject. More than once: used in turn.",
    metavar="TEXT",
)
ALL_PROMPTS = typer.Option("--all-prompts", help="Use all of the profile's prompts in turn.")
NEGATIVE = typer.Option(help="What must not be in the picture.", metavar="TEXT")
COUNT = typer.Option(
    help="How many pictures of each style. Default: the profile's number.", metavar="N", min=1
)
SEED = typer.Option(
    help="Number that decides the first picture's noise, and so the picture; the next one has one "
    "more. The same seed draws the same picture again. Default: 0.",
    metavar="N",
    min=0,
    max=2**63 - 1,
)
OUT = typer.Option(help="Where the pictures go.", metavar="DIR")
BEST = typer.Option(
    help="Keep the K most similar to the person of each style; the others go to DIR/rest.",
    metavar="K",
    min=1,
)
STEPS = typer.Option(
    help="Steps from noise to picture: more are finer and take longer. Default: the backbone's or "
    "the profile's.",
    metavar="N",
    min=1,
    max=1000,
)
GUIDANCE_SCALE = typer.Option(
    help="How closely to follow the prompt; much of it looks overdone. Default: the backbone's or "
    "the profile's.",
    metavar="X",
    min=0,
    max=50,
)
SCHEDULER = typer.Option(
    help="The sampler, which takes the steps: ddim, euler-a, dpm++-2m-karras, ... as AUTOMATIC1111 "
    "and diffusers name them; a name that does not exist lists them all. Default: the profile's, "
    "else the backbone's own.",
    metavar="NAME",
    autocompletion=complete.schedulers,
)
ADAPTER_SCALE = typer.Option(
    help="Strength of what the network learned (the LoRA): 0 without it, 1 as trained.",
    metavar="X",
    min=0,
    max=2,
)
TOKEN_SCALE = typer.Option(
    help="Strength of the learned words (the tokens): 0 the plain words that they started from, 1 "
    "as trained.",
    metavar="X",
    min=0,
    max=2,
)
ATTENTION_MAPS = typer.Option(
    "--attention-maps",
    help="Also draw what each learned word looks at, as attention-maps.jpg.",
)
FORCE = typer.Option(
    "--force",
    help="Draw although the backbone or the style is not the one that it was trained with.",
)


def generate(
    ctx: typer.Context,
    subject: Annotated[Path, SUBJECT],
    style: Annotated[list[str] | None, STYLE] = None,
    frame: Annotated[str | None, FRAME] = None,
    prompt: Annotated[list[str] | None, PROMPT] = None,
    all_prompts: Annotated[bool, ALL_PROMPTS] = False,
    negative: Annotated[str | None, NEGATIVE] = None,
    count: Annotated[int | None, COUNT] = None,
    seed: Annotated[int | None, SEED] = None,
    out: Annotated[Path, OUT] = Path("portraits"),
    best: Annotated[int | None, BEST] = None,
    steps: Annotated[int | None, STEPS] = None,
    guidance_scale: Annotated[float | None, GUIDANCE_SCALE] = None,
    scheduler: Annotated[str | None, SCHEDULER] = None,
    adapter_scale: Annotated[float, ADAPTER_SCALE] = 1.0,
    token_scale: Annotated[float, TOKEN_SCALE] = 1.0,
    lora: Annotated[list[str] | None, options.LORA] = None,
    embedding: Annotated[list[str] | None, options.EMBEDDING] = None,
    with_: Annotated[list[str] | None, options.WITH] = None,
    format: Annotated[options.Format, options.FORMAT] = "png",
    quality: Annotated[int, options.QUALITY] = 95,
    metadata: Annotated[options.Metadata, options.METADATA] = "all",
    attention_maps: Annotated[bool, ATTENTION_MAPS] = False,
    batch_size: Annotated[int | None, options.BATCH_SIZE] = None,
    backbone: Annotated[str | None, options.BACKBONE] = None,
    force: Annotated[bool, FORCE] = False,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
) -> None:
    """Draw pictures of a subject, most similar to the person first.

    Of a thing, those with most of its colours first. Beside them: contact-sheet.jpg, results.jsonl
    and report.html. Pictures that are there, of the same settings and seed, are not drawn again.

    Examples:

      mcap generate me.mcap --count 8 --out portraits

      mcap generate me.mcap --count 32 --best 4 --seed 100

      mcap generate me.mcap --prompt "a photo of a person in the {style} style, smiling"

      mcap generate me.mcap --lora film.safetensors:0.6

      mcap generate me.mcap --adapter-scale 0.7 --with you.mcap:0.7 --prompt "{id} and {id2}"
    """
    from mcap.cli.backbone import load_generation_models
    from mcap.cli.follow import follow
    from mcap.cli.lock_folder import take_folder
    from mcap.cli.notify_plugins import tell_plugins
    from mcap.cli.output import emit
    from mcap.cli.settings import load_settings
    from mcap.diffusion.schedulers import find as find_scheduler
    from mcap.generation import generate as stage
    from mcap.generation.events import GenerationFinished
    from mcap.generation.extra_networks import read_extra_networks
    from mcap.generation.run import check_backbone
    from mcap.generation.settings import GenerateSettings
    from mcap.subjects.subject import read_subject

    take_folder(ctx, out, "generate")
    settings = load_settings(ctx.obj, seed=seed, device=device, precision=precision)
    wanted = GenerateSettings(
        count=count, seed=settings.seed or 0, prompts=tuple(prompt or ()), all_prompts=all_prompts,
        negative=negative, steps=steps, guidance_scale=guidance_scale,
        scheduler=scheduler and find_scheduler(scheduler), adapter_scale=adapter_scale,
        token_scale=token_scale, batch_size=batch_size, best=best, format=format, quality=quality,
        metadata=metadata, attention_maps=attention_maps,
    )  # fmt: skip
    person = read_subject(subject)
    profiles = choose_profiles(ctx, person, style or (), wanted.prompts, force)
    profiles = [with_frame(profile, frame) for profile in profiles]
    networks = read_extra_networks(with_ or (), lora or (), embedding or ())
    warn_of_unnamed(ctx, networks, wanted.prompts)
    models = load_generation_models(ctx, person, settings, backbone)
    if not force:
        for one in (person, *(companion.subject for companion in networks.companions)):
            check_backbone(one, models.backbone.info)

    def begin(on_step: Callable[[int], None]) -> Generator[GenerationEvent]:
        return stage(person, profiles, models, out, wanted, extra_networks=networks,
                     on_step=on_step)  # fmt: skip

    title = f"{person.name}, {', '.join(profile.name for profile in profiles)}"
    *_, finished = follow(ctx, begin, out, title, "draw", models.backbone)
    assert isinstance(finished, GenerationFinished)  # the last event
    tell_plugins(ctx, finished.pictures)
    emit(ctx, result(person, out, finished), partial(print_result, finished=finished))


def choose_profiles(
    ctx: typer.Context, subject: Subject, styles: Sequence[str], prompts: Sequence[str], force: bool
) -> list[StyleProfile]:
    """Return the profiles of ``--style``, else the subject's own, and print their notices.

    `UsageError` for a style that the subject was not trained with, unless ``force`` is given or all
    prompts leave the learned style out.
    """
    from mcap.cli.output import note
    from mcap.contracts import STYLE_TOKEN
    from mcap.errors import UsageError
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    # A prompt that leaves the learned style out may go with the framing of any profile.
    free = prompts and not any("{style}" in text or STYLE_TOKEN in text for text in prompts)
    trained = subject.manifest.profile.name
    profiles = [find_profile(style, registry().profile_dirs) for style in styles or [trained]]
    # Prompts call the subject what it was trained as, whatever the style's own word is.
    noun = {"class_noun": subject.manifest.profile.class_noun}
    profiles = [profile.model_copy(update=noun) for profile in profiles]
    for profile in profiles:
        if profile.name != trained and not (force or free):
            raise UsageError(
                f"--style {profile.name}: {subject.path} was trained with the style '{trained}', "
                "and its style token means that one. Train on the other style too, give "
                "--prompt without {style}, or draw anyway with --force."
            )
    for profile in profiles:
        if profile.notice:
            note(ctx, f"{profile.name}: {profile.notice}")
    return profiles


def with_frame(profile: StyleProfile, frame: str | None) -> StyleProfile:
    """Return a profile with the framing of the one called ``frame``, as ``--frame`` says.

    Raises `UsageError` where there is none, or it says nothing of where a head belongs.
    """
    from mcap.errors import UsageError
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    if frame is None:
        return profile
    if frame == NO_FRAME:
        framing = profile.framing.model_copy(update={"draw_border": False})
        return profile.model_copy(update={"framing": framing})
    other = find_profile(frame, registry().profile_dirs)
    if other.framing.head_height is None:
        raise UsageError(
            f"--frame {frame}: {other.path} has no head_height under [framing], so that it does "
            "not say how a head is framed."
        )
    framing = other.framing.model_copy(update={"draw_border": True})
    return profile.model_copy(
        update={"framing": framing, "aspect": other.aspect, "size_mm": other.size_mm}
    )


def warn_of_unnamed(ctx: typer.Context, networks: ExtraNetworks, prompts: Sequence[str]) -> None:
    """Warn of each ``--with`` whose tokens stand in no prompt."""
    from mcap.cli.output import warn

    for companion in networks.companions:
        slots = companion.slots
        if not any(slot in text for slot in slots for text in prompts):
            said = " or ".join(slots)
            name = companion.subject.path
            warn(ctx, f"--with {name}: no --prompt says {said}, so only its LoRA takes part.")


def result(subject: Subject, out: Path, finished: GenerationFinished) -> dict[str, Any]:
    """Return the command's result for ``--json``."""
    return {
        "subject": subject.name,
        "out": out,
        "pictures": [
            {
                "rank": picture.rank,
                "file": picture.path,
                "similarity": picture.similarity,
                "judge": picture.record.get("judge"),
                "colour_match": picture.colour_match,
                "style": picture.style,
                "seed": picture.record["seed"],
                "kept": picture.kept,
                "new": picture.new,
                "framing": picture.record["framing"],
                "border": picture.record.get("border"),
            }
            for picture in finished.pictures
        ],
        "withheld": finished.withheld,
        "ranked_by": "similarity" if subject.palette is None else "colour_match",
        "identity": subject.identity_network,
        "results": finished.results,
        "report": finished.report,
        "attention_maps": finished.attention_maps,
        "contact_sheet": finished.contact_sheet,
    }


def print_result(console: Console, finished: GenerationFinished) -> None:
    """Print one line a picture, and where the sheets lie."""
    from mcap.cli.output import print_rows
    from mcap.generation.ranking import shown_likeness, verdict, who_judged

    a_thing = any(picture.colour_match is not None for picture in finished.pictures)
    rows = []
    for picture in finished.pictures:
        remarks = [word] if (word := verdict(picture)[0]) else []
        remarks += [] if picture.new else ["was there already"]
        remarks += [picture.border] if picture.border else []
        seed = picture.record["seed"]
        rows.append((picture.rank, shown_likeness(picture), seed, picture.path, ", ".join(remarks)))
    titles = ("rank", "colours" if a_thing else "likeness", "seed", "picture", "")
    print_rows(console, titles, rows, name=3, right=(0, 1, 2))
    console.print(who_judged(finished.pictures), markup=False)
    console.print(f"Report: {finished.report}", markup=False)
    if finished.attention_maps:
        console.print(f"Attention maps: {finished.attention_maps}", markup=False)
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)
