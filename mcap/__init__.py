"""MagiCapture portraits on your own machine: ``mcap mask``, ``train``, ``generate``, ``enhance``.

Importing this package imports nothing heavy; each stage is a module of its own.
"""

import os
from typing import Any

TELEMETRY_OFF = {
    # onnxruntime 1.32 reports to its maker as soon as it is loaded, and diffusers loads it.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, diffusers and transformers read both of these.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    # What further libraries go by, those of plugins among them.
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ANONYMIZED_TELEMETRY": "False",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
"""Environment variable -> the value with which a library tells nobody anything. Set as mcap is
imported, before any of these libraries is, so that worker processes have them too."""

for _name, _value in TELEMETRY_OFF.items():
    os.environ.setdefault(_name, _value)  # who has set it otherwise has asked for it

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    # Plugins write ``@mcap.hookimpl``; pluggy must stay off the path of ``mcap --help``.
    if name == "hookimpl":
        from mcap.hookspecs import hookimpl

        return hookimpl
    raise AttributeError(f"module 'mcap' has no attribute '{name}'")
