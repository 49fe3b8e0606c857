"""Shell completion of names. Nothing heavier than the light plugin modules is imported."""

from __future__ import annotations


def weights(incomplete: str) -> list[str]:
    from mcap.weights.fetch import WEIGHTS

    return _starting(WEIGHTS, incomplete)


def plugins(incomplete: str) -> list[str]:
    from mcap.registry import registry

    return _starting(registry().plugins, incomplete)


def detectors(incomplete: str) -> list[str]:
    return _entries("detector", incomplete)


def identities(incomplete: str) -> list[str]:
    return _entries("identity", incomplete)


def maskers(incomplete: str) -> list[str]:
    return _entries("masker", incomplete)


def backbones(incomplete: str) -> list[str]:
    return _entries("backbone", incomplete)


def restorers(incomplete: str) -> list[str]:
    return _entries("restorer", incomplete)


def recipes(incomplete: str) -> list[str]:
    from mcap.training.recipe import recipe_names

    return _starting(recipe_names(), incomplete)


def schedulers(incomplete: str) -> list[str]:
    from mcap.diffusion.schedulers import names

    return _starting(names(), incomplete)


def _entries(kind: str, incomplete: str) -> list[str]:
    from mcap.registry import registry

    return _starting(registry().names(kind), incomplete)


def _starting(names, incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def profiles(incomplete: str) -> list[str]:
    from mcap.registry import registry
    from mcap.style.folders import profile_folders

    folders = profile_folders(registry().profile_dirs)
    return _starting({path.stem for f in folders for path in f.path.glob("*.toml")}, incomplete)
