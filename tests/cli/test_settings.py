"""Layers of settings: flags > environment > ./mcap.toml > the user's > defaults."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mcap.cli import main, run
from mcap.cli.context import Globals
from mcap.cli.settings import Settings, load_settings, unknown_variables
from mcap.errors import UsageError
from mcap.weights.cache import cache_dir, offline, set_cache_dir, set_offline
from tests.support import ROOT


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty working directory and an empty user's configuration folder."""
    work, user = tmp_path / "work", tmp_path / "user"
    work.mkdir()
    user.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("MCAP_CONFIG_DIR", str(user))
    monkeypatch.delenv("MCAP_CACHE_DIR", raising=False)
    yield work / "mcap.toml", user / "mcap.toml"
    set_offline(None)
    set_cache_dir(None)


def test_defaults(places, monkeypatch):
    monkeypatch.delenv("MCAP_OFFLINE", raising=False)
    settings = load_settings()
    assert settings.detector == "yunet"
    assert settings.identity == "sface"
    assert settings.masker == "landmarks"
    assert settings.backbone == "demo"
    assert settings.recipe == "magicapture"
    assert settings.device == settings.precision == "auto"
    assert settings.threads is settings.seed is settings.cache_dir is None
    assert settings.offline is False


def test_each_layer_wins_over_the_next(places, monkeypatch):
    local, user = places
    user.write_text("seed = 1\n[photos]\nmax_side = 1000\nmax_megapixels = 50\n")
    assert load_settings().seed == 1
    local.write_text("seed = 2\n[photos]\nmax_side = 2000\n")
    settings = load_settings()
    assert settings.seed == 2
    # Tables are merged key by key, not replaced whole.
    assert (settings.photos.max_side, settings.photos.max_megapixels) == (2000, 50)
    monkeypatch.setenv("MCAP_SEED", "3")
    monkeypatch.setenv("MCAP_PHOTOS__MAX_SIDE", "3000")
    settings = load_settings()
    assert (settings.seed, settings.photos.max_side) == (3, 3000)
    assert settings.photos.max_megapixels == 50
    assert load_settings(seed=4).seed == 4
    assert load_settings(seed=None).seed == 3


def test_a_named_file_is_read_instead_of_both(places, tmp_path):
    local, user = places
    local.write_text("seed = 2\n")
    user.write_text("threads = 3\n")
    other = tmp_path / "other.toml"
    other.write_text("detector = 'mine'\n")
    settings = load_settings(Globals(config=other))
    assert (settings.detector, settings.seed, settings.threads) == ("mine", None, None)
    with pytest.raises(UsageError, match=r"nosuch\.toml"):
        load_settings(Globals(config=tmp_path / "nosuch.toml"))


def test_an_unknown_key_names_file_key_and_allowed_keys(places):
    local, user = places
    user.write_text("detectr = 'yunet'\n")
    with pytest.raises(UsageError) as raised:
        load_settings()
    message = str(raised.value)
    assert str(user) in message
    assert "'detectr'" in message
    assert "Did you mean 'detector'?" in message
    assert "backbone" in message
    user.unlink()
    local.write_text("[photos]\nmax_sid = 3\n")
    with pytest.raises(UsageError, match=r"'photos\.max_sid'.*\[photos\]: .*max_side"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("precision = 'half'", "precision", "bf16"),
        ("device = 'gpu'", "device", "cuda:N"),
        ("threads = 0", "threads", "greater than or equal to 1"),
        ("photos = 3", "photos", "dictionary"),
        ("[photos]\nmax_side = 'big'", "photos.max_side", "integer"),
    ],
)
def test_a_wrong_value_names_its_place(places, text, key, allowed):
    local, _ = places
    local.write_text(text)
    with pytest.raises(UsageError) as raised:
        load_settings()
    message = str(raised.value)
    assert message.startswith(f"mcap.toml: {key} = ")
    assert allowed in message


def test_a_wrong_value_in_the_environment_or_a_flag_is_named(places, monkeypatch):
    monkeypatch.setenv("MCAP_THREADS", "many")
    with pytest.raises(UsageError, match="environment variable MCAP_THREADS: threads = 'many'"):
        load_settings()
    monkeypatch.setenv("MCAP_THREADS", "")  # switched off
    assert load_settings().threads is None
    with pytest.raises(UsageError, match="--precision: precision = 'half'"):
        load_settings(precision="half")


def test_broken_toml_is_named(places):
    local, _ = places
    local.write_text("seed = = 3\n")
    with pytest.raises(UsageError, match=r"mcap\.toml is not valid TOML.*line 1"):
        load_settings()


def test_offline_and_cache_dir_reach_the_downloader(places, tmp_path, monkeypatch):
    monkeypatch.delenv("MCAP_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    local, _ = places
    local.write_text(f"offline = true\ncache_dir = '{tmp_path}/weights cache'\n")
    load_settings()
    assert offline()
    assert cache_dir() == Path(f"{tmp_path}/weights cache")


def test_settings_do_not_change(places):
    settings = load_settings()
    assert isinstance(settings, Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


def test_a_misspelt_flag_is_a_defect_of_the_caller(places):
    with pytest.raises(TypeError, match="sed"):
        load_settings(sed=3)


def test_the_page_on_settings_is_a_valid_file_and_names_every_key(places):
    page = ROOT / "docs" / "settings.md"
    text = page.read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    places[0].write_text(example)
    load_settings()
    shown_keys = tomllib.loads(example)
    assert set(shown_keys) == set(Settings.model_fields)
    # What the page shows as a default is the default.
    for table in ("photos", "faces", "enhance", "finish"):
        shown = shown_keys[table]
        defaults = getattr(Settings(), table).model_dump(mode="json")
        assert shown == {key: defaults[key] for key in shown}


def test_a_byte_order_mark_as_notepad_writes_it_is_read(places):
    local, _ = places
    local.write_bytes(b"\xef\xbb\xbfseed = 5\r\n[photos]\r\nmax_side = 1000\r\n")
    settings = load_settings()
    assert settings.seed == 5
    assert settings.photos.max_side == 1000


@pytest.mark.parametrize(
    "data",
    [b"seed = " + b"[" * 5_000, b"# " + b"x" * 2**21, "seed = 5".encode("utf-16"), b"a = 1" * 5],
)
def test_settings_that_cannot_be_read_are_refused_by_name(places, data):
    places[0].write_bytes(data)
    with pytest.raises(UsageError, match=r"mcap\.toml"):
        load_settings()


WRONG_VARIABLES = {
    "MCAP_DETECTR": "MCAP_DETECTOR",
    "MCAP_CACHEDIR": "MCAP_CACHE_DIR",
    "MCAP_FACES_MAX_YAW": "MCAP_FACES__MAX_YAW",
    "MCAP_FACE__MAX_YAW": "MCAP_FACES__MAX_YAW",
    "MCAP_PLUGIN": "MCAP_PLUGINS",
    "MCAP_MASKER__X": "MCAP_MASKER",
    "mcap_sed": "MCAP_SEED",
    "MCAP_WHATEVER": None,
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_a_variable_that_nothing_reads_is_warned_of_by_every_command(
    places, monkeypatch, capsys, name
):
    monkeypatch.setenv(name, "7")
    assert run(["profiles", "list"]) == 0
    told = capsys.readouterr().err
    assert f"warning: environment variable {name}: nothing reads it." in told
    close = WRONG_VARIABLES[name]
    assert (f"Did you mean '{close}'?" in told) if close else ("Did you mean" not in told)


def test_variables_that_are_read_are_not_warned_of(places, monkeypatch):
    for name in list(os.environ):
        if name.startswith("MCAP_"):
            monkeypatch.delenv(name)
    for key in Settings.model_fields:
        monkeypatch.setenv(f"MCAP_{key.upper()}", "1")
    for name in ("MCAP_FACES__MAX_YAW", "mcap_photos__max_side", "MCAP_PLUGINS", "MCAP_CONFIG_DIR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MCAP_FACES__NAME", "1")  # an error of whatever reads the settings
    assert unknown_variables() == []


def test_a_plugin_s_own_variables_begin_with_its_name(places, monkeypatch):
    points = [EntryPoint(name, "nothing", "mcap") for name in ("my-booth", "lamp")]
    monkeypatch.setattr("mcap.cli.settings.entry_points", lambda group: points)
    for name in ("MCAP_MY_BOOTH_PORT", "MCAP_LAMP_COLOUR", "MCAP_BOOTH_PORT"):
        monkeypatch.setenv(name, "7")
    told = [text for text in unknown_variables() if "BOOTH" in text or "LAMP" in text]
    assert told == ["environment variable MCAP_BOOTH_PORT: nothing reads it."]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MCAP_FACES__MAX_YAWW", "4", r"MCAP_FACES__MAX_YAWW: unknown key .*mean 'max_yaw'\?"),
        ("MCAP_FACES", '{"max_yaww": 4}', r"MCAP_FACES: unknown key .*mean 'max_yaw'\?"),
        ("MCAP_PHOTOS", "{", "MCAP_PHOTOS: is a table, and must be JSON, .* MCAP_PHOTOS__MAX_"),
        ("MCAP_PHOTOS__MAX_SIDE__A", "4", "variable MCAP_PHOTOS__MAX_SIDE__A: photos.max_side = "),
    ],
)
def test_wrong_keys_of_tables_in_the_environment_are_named(places, monkeypatch, name, value, told):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told):
        load_settings()


@pytest.mark.parametrize(
    ("words", "close"),
    [
        ("profiles show pasport", "passport"),
        ("models pull yunt", "yunet"),
        ("plugins opncv", "opencv"),
        ("train --source . --style pasport --out o.mcap", "passport"),
        ("train --source a.jpg --style passport --recipe relesed --out o.mcap", "released"),
        (
            "train --source a.jpg --style passport --set phase1_step=5 --out o.mcap",
            "phase1_steps",
        ),
        ("enhance a.jpg --restorer demo-rs", "demo-sr"),
        ("enhance a.jpg --restorer demo-sr.pth", "demo-sr"),
        ("mask a.jpg --preview --masker landmark", "landmarks"),
        ("profiles check aspct.toml", "aspect"),
        ("profiles check trian.toml", "train"),
        ("profiles check head.toml", "head_height"),
    ],
)
def test_mistyped_names_and_keys_get_did_you_mean(places, capsys, words, close):
    work = places[0].parent
    (work / "a.jpg").write_bytes((ROOT / "examples" / "selfies" / "06-close.jpg").read_bytes())
    for name, text in {
        "aspct": 'aspct = "4:5"\n',
        "trian": "[trian]\nphase1_steps = 3\n",
        "head": "[framing]\nhead_heigth = [0.4, 0.5]\n",
    }.items():
        (work / f"{name}.toml").write_text(f'schema = 1\nname = "{name}"\n{text}')
    assert run(words.split()) != 0
    output = capsys.readouterr()
    assert f"Did you mean '{close}'?" in " ".join((output.out + output.err).split())


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_spin_for_a_moment_only_unless_told_otherwise(given, spins, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what main sets is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ.get("GOMP_SPINCOUNT") == spins
