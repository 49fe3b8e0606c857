"""insightface's model pack: where it lies, whether it is whole, and how insightface fetches it.

It is what a `mcap.weights.catalogue.LibrarySource` names. Nothing heavy is imported before its use.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

PACK = "buffalo_l"
URL = f"https://github.com/deepinsight/insightface/releases/download/model-zoo/{PACK}.zip"

DETECTOR = "det_*.onnx"
RECOGNISER = "w600k_*.onnx"

REMEDY = (
    f"Get {PACK}.zip where there is a network ({URL}) and unpack it into the folder "
    f"models/{PACK} of ~/.insightface, or of the folder that INSIGHTFACE_HOME names. Its licence "
    "allows non-commercial research only."
)


def folder() -> Path:
    """Where the pack belongs, below ``INSIGHTFACE_HOME`` or ``~/.insightface``."""
    home = os.environ.get("INSIGHTFACE_HOME")
    return (Path(home) if home else Path.home() / ".insightface") / "models" / PACK


def network(pack: Path, pattern: str) -> Path | None:
    """The network of that name in the pack; some archives hold a folder of the pack's name."""
    return next(iter(sorted(pack.rglob(pattern))), None)


def find() -> Path | None:
    """The pack's folder where the detector and the recognition network are in it."""
    pack = folder()
    whole = all(network(pack, pattern) is not None for pattern in (DETECTOR, RECOGNISER))
    return pack if whole else None


def check(pack: Path) -> str:
    """Return the faults of the two networks' files, "" for none; there are no published hashes."""
    import onnx

    wrong = []
    for pattern in (DETECTOR, RECOGNISER):
        path = network(pack, pattern)
        if path is None:
            wrong.append(f"{pattern} is not there")
            continue
        try:
            onnx.checker.check_model(onnx.load(path))
        except Exception as error:  # protobuf's, onnx's or the file system's
            wrong.append(f"{path.name} is damaged ({type(error).__name__})")
    return "; ".join(wrong)


def download() -> None:
    """Let insightface fetch its pack into `folder`; what it raises is its own."""
    from mcap_plugins.shared.optional import extra

    storage = extra("insightface.utils.storage", "insightface")
    pack = folder()
    # insightface tells what it does on stdout, where --json belongs. It takes any folder of that
    # name for the pack, also one that an interrupted run left without its networks: so by force.
    with contextlib.redirect_stdout(sys.stderr):
        storage.download(pack.parent.name, PACK, force=True, root=str(pack.parent.parent))
