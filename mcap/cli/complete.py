"""Shell completion of names. Nothing heavier than the light plugin modules is imported."""

from __future__ import annotations

from collections.abc import Iterable


def weights(incomplete: str) -> list[str]:
    from mcap.weights.catalogue import WEIGHTS

    return starting(WEIGHTS, incomplete)


def plugins(incomplete: str) -> list[str]:
    from mcap.registry import registry

    return starting(registry().plugins, incomplete)


def detectors(incomplete: str) -> list[str]:
    return entries("detector", incomplete)


def identities(incomplete: str) -> list[str]:
    return entries("identity", incomplete)


def maskers(incomplete: str) -> list[str]:
    return entries("masker", incomplete)


def backbones(incomplete: str) -> list[str]:
    return entries("backbone", incomplete)


def engines(incomplete: str) -> list[str]:
    return entries("engine", incomplete)


def restorers(incomplete: str) -> list[str]:
    return entries("restorer", incomplete)


def metrics(incomplete: str) -> list[str]:
    return entries("metric", incomplete)


def recipes(incomplete: str) -> list[str]:
    from mcap.training.recipe import recipe_names

    return starting(recipe_names(), incomplete)


def schedulers(incomplete: str) -> list[str]:
    from mcap.diffusion.schedulers import names

    return starting(names(), incomplete)


def entries(kind: str, incomplete: str) -> list[str]:
    """Return the registered names of a kind that begin so."""
    from mcap.registry import registry

    return starting(registry().names(kind), incomplete)


def starting(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin so, sorted."""
    return sorted(name for name in names if name.startswith(incomplete))


def profiles(incomplete: str) -> list[str]:
    from mcap.registry import registry
    from mcap.style.folders import profile_folders

    folders = profile_folders(registry().profile_dirs)
    return starting({path.stem for f in folders for path in f.path.glob("*.toml")}, incomplete)


def documents(incomplete: str) -> list[str]:
    from mcap.style.id_documents import rules

    return starting(rules().documents, incomplete)
