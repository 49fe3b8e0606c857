"""``[marks]`` -> the watermark and the signer that a run's pictures are marked with."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mcap.errors import MissingResourceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from mcap.contracts import Watermark
    from mcap.images.marking import Marks, Signer
    from mcap.marks.settings import MarkSettings

NONE = "none"
"""Of ``[marks] watermark``: pictures get none."""


def chosen_marks(ctx: typer.Context, settings: MarkSettings) -> Marks:
    """Return what the pictures of a run are marked with, beside their XMP.

    Raises `MissingResourceError` for a watermark that nobody has registered and for a certificate
    without c2pa-python, `UsageError` for a certificate that is none.
    """
    from mcap.images.marking import Marks

    return Marks(chosen_watermark(settings), chosen_signer(ctx, settings))


def chosen_watermark(settings: MarkSettings) -> Watermark | None:
    """Return the watermark that the settings name."""
    from mcap.registry import registry

    if settings.watermark == NONE:
        return None
    return registry().create("watermark", settings.watermark)


def chosen_signer(ctx: typer.Context, settings: MarkSettings) -> Signer | None:
    """Return a signer with the user's certificate, else with this machine's own.

    None where C2PA is switched off or not installed and, with a warning, where the machine's own
    certificate cannot be kept.
    """
    if not settings.c2pa:
        return None
    if find_spec("c2pa") is None:
        if settings.certificate is None:
            return None
        raise MissingResourceError(
            f"[marks] certificate = {settings.certificate}: signing needs c2pa-python, which is "
            "not installed: pip install 'mcap[c2pa]'."
        )
    from mcap.cli.output import warn
    from mcap.marks.certificate import CERTIFICATE, local_credential, user_credential
    from mcap.marks.manifest import ManifestSigner
    from mcap.runtime.files import why

    if settings.certificate is not None and settings.key is not None:
        signer = ManifestSigner(user_credential(settings.certificate, settings.key))
        signer.require_usable(settings.certificate)  # before any work, and not after it
        return signer
    folder = certificate_folder()
    try:
        signer = ManifestSigner(local_credential(folder))
        signer.require_usable(folder / CERTIFICATE)  # it is void where the clock is years wrong
        return signer
    except OSError as error:
        reason = why(error)
    except UsageError as error:
        reason = str(error)
    warn(
        ctx,
        f"Pictures are not signed (C2PA): the certificate in {folder} cannot be had: {reason}.",
    )
    return None


def certificate_folder() -> Path:
    """Return where this machine's own certificate lies: beside mcap.toml."""
    from mcap.style.folders import config_dir

    return config_dir() / "marks"


def all_watermarks() -> dict[str, Watermark]:
    """Return every registered watermark that can be had here, by name."""
    from mcap.registry import registry

    found = {}
    for name in registry().names("watermark"):
        try:
            found[name] = registry().create("watermark", name)
        except MissingResourceError:
            continue  # of a plugin whose packages are not here: nobody asked for it by name
    return found


def trusted_anchors(settings: MarkSettings) -> str | None:
    """Return the PEM text of ``[marks] trust``; `UsageError` where it cannot be read."""
    if settings.trust is None:
        return None
    from mcap.runtime.files import open_to_read, why

    try:
        with open_to_read(settings.trust) as file:
            text = file.read().decode(errors="replace")
    except OSError as error:
        raise UsageError(f"[marks] trust = {settings.trust}: {why(error)}.") from None
    if "BEGIN CERTIFICATE" not in text:
        raise UsageError(f"[marks] trust = {settings.trust}: holds no certificate in PEM.")
    return text
