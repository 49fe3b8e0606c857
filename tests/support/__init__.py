"""Helpers of the tests: tiny models, drawn people, files as other programs write them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The source tree."""
