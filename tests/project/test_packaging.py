"""The package: what the wheel, the sdist and the editable install hold, by their contents."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(kind: str, source: Path, out: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    return next(out.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def sources(folder: str) -> list[Path]:
    """The files that belong into the package: no caches, nothing hidden."""
    return [
        path
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


def test_the_wheel_has_both_packages_and_the_profiles_whole(names):
    for folder, target in (
        ("mcap", "mcap"),
        ("plugins/mcap_plugins", "mcap_plugins"),
        ("profiles", "mcap/profiles"),
    ):
        found = sources(folder)
        assert found, f"{folder} is empty"
        for path in found:
            inside = f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
            assert inside in names, f"{inside} is not in the wheel"


def test_the_wheel_has_what_the_first_run_needs(names):
    assert "mcap/cli/__init__.py" in names
    assert "mcap_plugins/demo/model/model_index.json" in names
    assert any(
        name.startswith("mcap_plugins/demo/model/") and name.endswith(".safetensors")
        for name in names
    )
    for profile in ("passport", "business", "studio-bw"):
        assert f"mcap/profiles/{profile}.toml" in names
        photos = [
            name for name in names if re.match(rf"mcap/profiles/refs/{profile}/.+\.jpe?g$", name)
        ]
        assert len(photos) >= 6, f"{profile} has {len(photos)} reference photos"


def test_the_wheel_installs_no_other_top_level_name(names):
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"mcap", "mcap_plugins"}


def test_the_wheel_has_entry_points_licence_and_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        folder = info.rsplit("/", 1)[0]
        metadata = archive.read(info).decode()
        licence = archive.read(f"{folder}/licenses/LICENSE").decode()
        parser = configparser.ConfigParser()
        parser.optionxform = str
        parser.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    assert parser["console_scripts"]["mcap"] == "mcap.cli:main"
    assert dict(parser["mcap"]) == {
        name: f"mcap_plugins.{name}"
        for name in (
            "opencv",
            "insightface",
            "mediapipe",
            "parsing",
            "person",
            "dlib",
            "stable_diffusion",
            "klein",
            "zimage",
            "demo",
            "spandrel",
            "measures",
            "local",
            "ray",
        )
    }
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    for extra in ("insightface", "mediapipe", "dlib", "codeformer", "ray", "studio", "all", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


def test_the_sdist_builds_the_same_wheel(names, tmp_path):
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    source = next((tmp_path / "source").iterdir())
    for name in ("LICENSE", "README.md", "pyproject.toml", "Makefile", "constraints.txt", "tests"):
        assert (source / name).exists(), f"{name} is not in the sdist"
    again = build("wheel", source, tmp_path / "wheel")
    assert set(zipfile.ZipFile(again).namelist()) == names


def test_an_editable_install_finds_the_source_tree(tmp_path):
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        path_file = next(name for name in archive.namelist() if name.endswith(".pth"))
        paths = archive.read(path_file).decode().split()
        code = [name for name in archive.namelist() if name.endswith(".py")]
    assert [Path(path) for path in paths] == [ROOT, ROOT / "plugins"]
    assert code == []  # the source tree is used, not a copy that would grow stale


def test_every_import_is_a_declared_dependency():
    """Code of ours may import what pyproject.toml asks for, and a plugin its own extra."""
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    distributions = packages_distributions()
    undeclared = []
    for path in [*sources("mcap"), *sources("plugins/mcap_plugins")]:
        if path.suffix != ".py":
            continue
        extra = extras.get(path.parent.name, [])  # plugins/mcap_plugins/dlib: mcap[dlib]
        if path.name in ("optimizer.py", "quantised.py"):
            extra = extras["8bit"]
        if path.stem == "studio":  # the command of that page
            extra = extras["studio"]
        if path.parent.name == "marks":
            extra = extras["c2pa"]
        allowed = declared | {canonicalize_name(Requirement(text).name) for text in extra}
        for node in ast.walk(ast.parse(path.read_text())):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for module in modules:
                top = module.split(".")[0]
                if top in sys.stdlib_module_names or top in {"mcap", "mcap_plugins"}:
                    continue
                owners = {canonicalize_name(name) for name in distributions.get(top, [top])}
                if not owners & allowed:
                    undeclared.append(f"{path.relative_to(ROOT)}: {module}")
    assert undeclared == []


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


def test_constraints_pin_every_requirement_and_satisfy_it():
    found = pins()
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += [text for text in extra if not text.startswith("mcap[")]
    for text in wanted:
        requirement = Requirement(text)
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{text}: {version}"


def test_constraints_hold_one_opencv_and_no_notebooks():
    found = pins()
    assert found["opencv-python"] == found["opencv-contrib-python"]
    assert not [name for name in found if "headless" in name or "jupyter" in name]


def test_the_makefile_and_ci_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "test-changed", "lint", "docs"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_wheel_is_below_sixty_megabytes(wheel):
    assert wheel.stat().st_size <= 60_000_000


def interpreter(version: str) -> str:
    """Return the Python of a version, on PATH or one of pyenv's; skips the test without it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*pyenv.glob(f"{version}.*/bin/python"), shutil.which(f"python{version}")]
    for path in found:  # what pyenv has on PATH runs the chosen version alone
        asked = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if path and subprocess.run(asked, capture_output=True).stdout.decode().strip() == version:
            return str(path)
    pytest.skip(f"there is no Python {version}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "version"), [("uv", "3.11"), ("uv", "3.12"), ("uv", "3.13"), ("pipx", "3.11")]
)
def test_the_wheel_installs_as_a_tool(wheel, tool, version):
    """With what is light: that torch installs from PyPI is not ours to try every time."""
    script = ROOT / "tools" / "release" / "try_install.py"
    if not script.is_file():
        pytest.skip("tools/release is not in this copy of the source")
    beside = Path(sys.executable).parent
    path = os.pathsep.join([str(beside), os.environ["PATH"]])
    if shutil.which(tool, path=path) is None:
        pytest.skip(f"{tool} is not installed")
    python = interpreter(version)
    done = subprocess.run(
        [sys.executable, str(script), str(wheel), "--with", tool, "--light", "--python", python],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No solution found" in done.stderr or "Failed to fetch" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tool} on Python" in done.stdout
