"""Importing this makes the modules of tools/demo_sr and tools/demo_backbone importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo_sr"))
import backbone_tools  # noqa: F401
