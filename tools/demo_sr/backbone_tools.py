"""Importing this makes the modules of tools/demo_backbone importable: they are shared."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo_backbone"))
