"""Style profiles: every key checked, nothing outside their folder, found in a stated order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mcap.cli.context import Globals
from mcap.cli.profile_check import (
    PromptReaders,
    check_prompts,
    check_references,
    check_train,
    new_profile,
    prompt_readers,
)
from mcap.cli.profiles import findings_of
from mcap.cli.settings import load_settings
from mcap.errors import MissingResourceError, UsageError
from mcap.registry import Registry
from mcap.style.profile import (
    StyleProfile,
    builtin_profile_folders,
    find_profile,
    list_profiles,
    profile_folders,
    read_profile,
)
from tests.support.tiny import tiny_backbone, tiny_folder

FULL = """\
schema = 1
name = "passport"
title = "Passport-style photo"
description = "Plain light background, even light, neutral expression, head and shoulders."
class_noun = "person"
aspect = "35:45"
size_mm = [35, 45]
notice = "Many authorities reject AI-generated photos for official documents."

[references]
directory = "refs/passport"
prompts = ["a passport photo of a person, plain white background"]

[prompts]
composed = ["a photo of a {id} {noun} in the {style} style, plain white background"]
negative = "hat, sunglasses, shadow on the wall"

[framing]
head_height = [0.70, 0.80]
eye_line = [0.55, 0.65]
head_center_x = [0.45, 0.55]

[background]
color = "#f5f5f5"

[generate]
steps = 30
guidance_scale = 7.0
count = 8

[train]
identity_weight = 1.0
"""
SHORT = 'schema = 1\nname = "{}"\n'


def write(folder: Path, text: str, name: str = "passport") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def picture(path: Path, size: tuple[int, int] = (768, 768)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 180, 160)).save(path)
    return path


def test_a_whole_profile(tmp_path):
    profile = read_profile(write(tmp_path, FULL))
    assert profile.path == tmp_path / "passport.toml"
    assert profile.aspect_ratio == pytest.approx(35 / 45)
    assert profile.framing.eye_line == (0.55, 0.65)
    assert profile.background.color == "#f5f5f5"
    assert profile.train == {"identity_weight": 1.0}
    assert profile.reference_paths() == []


def test_a_short_profile_has_defaults(tmp_path):
    profile = read_profile(write(tmp_path, SHORT.format("passport")))
    assert (profile.class_noun, profile.aspect_ratio, profile.generate.count) == ("person", 1.0, 8)
    assert profile.generate.steps is None and profile.framing.head_height is None


def change(old: str, new: str) -> str:
    assert old in FULL
    return FULL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        (change("schema = 1", "schema = 2"), "schema", "1"),
        (change("schema = 1\n", ""), "schema", "schema = 1"),
        (change('title = "', 'titel = "'), "titel", "class_noun"),
        (change('class_noun = "person"', 'class_noun = "<x>"'), "class_noun", "person"),
        (change('"35:45"', '"35x45"'), "aspect", "width:height"),
        (change('"35:45"', '"1:100"'), "aspect", "1:4 and 4:1"),
        (change("[35, 45]", "[45, 35]"), "size_mm", "35:45"),
        (change("[35, 45]", '["35", 45]'), "size_mm[0]", "number"),
        (change("{id} {noun}", "{noun}"), "prompts.composed[0]", "{id}"),
        (change("{noun}", "{nuon}"), "prompts.composed[0]", "{noun}"),
        (change('"hat, ', '"{id}, '), "prompts.negative", "no slots"),
        (change("photo of a person, plain", "photo of {id}"), "references.prompts[0]", "{noun}"),
        (change("[0.70, 0.80]", "[0.80, 0.70]"), "framing.head_height", "smallest, largest"),
        (change("[0.70, 0.80]", "[0.70]"), "framing.head_height", "two numbers"),
        (change("[0.70, 0.80]", "[0.7, 0.8, 0.9]"), "framing.head_height", "two numbers"),
        (change("[0.70, 0.80]", "[0.7, 80]"), "framing.head_height[1]", "less than or equal to 1"),
        (change('"#f5f5f5"', '"white"'), "background.color", "#"),
        (change("steps = 30", "steps = 0"), "generate.steps", "greater than or equal to 1"),
        (change("steps = 30", 'steps = "30"'), "generate.steps", "integer"),
        (change("count = 8", "count = true"), "generate.count", "integer"),
        (change("count = 8", "counts = 8"), "generate.counts", "guidance_scale"),
        (change("_weight = 1.0", "_weight = {a = 1}"), "train.identity_weight", "number"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_key_and_what_is_allowed(tmp_path, text, key, allowed):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_profile(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"key '{key}'" in message
    assert allowed in message
    assert caught.value.details["keys"] == [key]


def test_all_wrong_keys_are_named_at_once(tmp_path):
    text = change("count = 8", "count = 0").replace("#f5f5f5", "white")
    with pytest.raises(UsageError) as caught:
        read_profile(write(tmp_path, text))
    assert caught.value.details["keys"] == ["background.color", "generate.count"]


def test_files_that_are_no_profile(tmp_path):
    with pytest.raises(UsageError, match=r"is not TOML.*line 1"):
        read_profile(write(tmp_path, "schema = = 1"))
    with pytest.raises(UsageError, match="no such profile"):
        read_profile(tmp_path / "nothing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        read_profile(tmp_path / "bytes.toml")
    with pytest.raises(UsageError, match='name = "other"'):
        read_profile(write(tmp_path, FULL, "other"))


# References


def test_reference_photos_are_found_in_order(tmp_path):
    path = write(tmp_path, FULL)
    for name in ("b.jpg", "a.PNG", ".hidden.jpg"):
        picture(tmp_path / "refs/passport" / name)
    (tmp_path / "refs/passport/notes.txt").write_text("x")
    assert [item.name for item in read_profile(path).reference_paths()] == ["a.PNG", "b.jpg"]


@pytest.mark.parametrize(
    "directory",
    ["../secret", "refs/../../secret", "/etc", "C:/Windows", r"..\secret", r"\\server\share",
     r"refs\..\..\x", "~/photos", ""],
)  # fmt: skip
def test_references_outside_the_folder_are_refused(tmp_path, directory):
    text = change('"refs/passport"', f"'{directory}'")
    with pytest.raises(UsageError, match=r"key 'references\.directory'"):
        read_profile(write(tmp_path / "profiles", text))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    picture(tmp_path / "secret/me.jpg")
    path = write(tmp_path / "profiles", FULL)
    (tmp_path / "profiles/refs").mkdir()
    link = tmp_path / "profiles/refs/passport"
    os.symlink(tmp_path / "secret", link)
    with pytest.raises(UsageError, match=r"references\.directory.*outside"):
        read_profile(path)
    link.unlink()
    link.mkdir()
    os.symlink(tmp_path / "secret/me.jpg", link / "me.jpg")
    with pytest.raises(UsageError, match=r"references\.directory.*outside"):
        read_profile(path)


def test_a_link_inside_the_folder_is_fine(tmp_path):
    path = write(tmp_path, FULL)
    picture(tmp_path / "pool/me.jpg")
    (tmp_path / "refs/passport").mkdir(parents=True)
    os.symlink(tmp_path / "pool/me.jpg", tmp_path / "refs/passport/me.jpg")
    assert len(read_profile(path).reference_paths()) == 1


# The search path


def test_earlier_folders_win_and_the_list_shows_both(tmp_path, monkeypatch):
    user, plugin, built_in = (tmp_path / name for name in ("user", "plugin", "built-in"))
    for folder, title in ((user, "mine"), (plugin, "theirs"), (built_in, "ours")):
        write(folder, SHORT.format("passport") + f'title = "{title}"\n')
    write(plugin, SHORT.format("extra"), "extra")
    write(built_in, "schema = 9", "broken")
    monkeypatch.setattr("mcap.style.folders.builtin_profile_folders", lambda: [built_in])
    assert find_profile("passport", [plugin], user_dir=user).title == "mine"
    assert find_profile("passport", [plugin], user_dir=tmp_path / "none").title == "theirs"
    found = list_profiles([plugin], user_dir=user)
    assert [(item.name, item.origin) for item in found] == [
        ("passport", "user"),
        ("extra", "plugin"),
        ("passport", "plugin"),
        ("broken", "built-in"),
        ("passport", "built-in"),
    ]
    assert [item.shadowed_by for item in found if item.name == "passport"] == [
        None,
        user / "passport.toml",
        user / "passport.toml",
    ]
    broken = found[3]
    assert broken.profile is None and "key 'schema'" in broken.error


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    path = write(tmp_path, SHORT.format("mine"), "mine")
    assert find_profile(str(path)).name == "mine"
    assert find_profile(path).name == "mine"
    monkeypatch.chdir(tmp_path)
    assert find_profile("mine.toml").name == "mine"
    with pytest.raises(UsageError, match="no style profile 'mine'"):
        find_profile("mine")  # a bare name is looked up on the search path only


def test_an_unknown_name_lists_the_known(tmp_path):
    write(tmp_path, SHORT.format("mine"), "mine")
    with pytest.raises(UsageError) as caught:
        find_profile("nothing", user_dir=tmp_path)
    assert "mine" in caught.value.details["known"]
    for name in ("../mine", "", "*"):
        with pytest.raises(UsageError):
            find_profile(name, user_dir=tmp_path / "sub")


def test_the_users_folder_is_beside_the_users_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path))
    (tmp_path / "profiles").mkdir()
    assert profile_folders()[0].path == tmp_path / "profiles"


def test_the_built_in_profiles_are_valid():
    for folder in builtin_profile_folders():
        for path in folder.glob("*.toml"):
            profile = read_profile(path)
            assert not list(check_train(profile))


# check and new


def test_check_looks_at_the_reference_photos(tmp_path):
    from mcap.images.open import PhotoSettings

    path = write(tmp_path, FULL)
    picture(tmp_path / "refs/passport/good.jpg", (512, 900))
    picture(tmp_path / "refs/passport/small.jpg", (511, 900))
    (tmp_path / "refs/passport/text.jpg").write_text("no picture")
    findings = list(check_references(read_profile(path), PhotoSettings()))
    errors = [item.message for item in findings if item.level == "error"]
    assert len(errors) == 2
    assert any("small.jpg: 511 x 900" in message for message in errors)
    assert any("text.jpg" in message for message in errors)
    assert [item.level for item in findings].count("warning") == 1  # only three photos


def test_check_looks_at_lengths_and_recipe_keys(tmp_path):
    readers = prompt_readers(str(tiny_folder()))
    text = change("plain white background", "plain white background, " * 40)
    text = text.replace("identity_weight", "identity_wieght")
    profile = read_profile(write(tmp_path, text))
    messages = [item.message for item in check_prompts(profile, readers)]
    assert messages and all(
        f"of which 77 fit in backbone '{tiny_folder()}'" in item for item in messages
    )
    (finding,) = check_train(profile)
    assert "identity_wieght" in finding.message and "passport.toml" in finding.message


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_prompts_are_counted_as_the_loaded_model_counts_them(tmp_path, monkeypatch, kind):
    folder = tiny_folder(kind=kind)
    backbone = tiny_backbone(kind=kind)
    loaded = []
    monkeypatch.setattr(Registry, "create", lambda *given, **more: loaded.append(given))
    readers = prompt_readers(str(folder))
    assert loaded == []
    assert len(readers.tokenizers) == len(backbone.tokenizers)
    text = change("plain white background", "plain white background, " * 40)
    profile = read_profile(write(tmp_path, text))
    whole = PromptReaders(str(folder), backbone.tokenizers, backbone.text_encoders)
    messages = [item.message for item in check_prompts(profile, whole)]
    assert messages
    assert [item.message for item in check_prompts(profile, readers)] == messages
    readers = prompt_readers("demo")
    assert loaded == [] and len(readers.tokenizers) == 1
    # Where there is no tokenizer by itself, as in a single file, the model is loaded.
    lacking = tmp_path / "model"
    shutil.copytree(folder, lacking)
    (lacking / "tokenizer" / "tokenizer_config.json").unlink()
    monkeypatch.setattr(Registry, "create", lambda *given, **more: loaded.append(more) or backbone)
    assert prompt_readers(str(lacking)).tokenizers is backbone.tokenizers
    assert loaded == [{"source": str(lacking)}]


def test_nothing_is_fetched_to_count_words(tmp_path, monkeypatch):
    profile = read_profile(write(tmp_path, FULL))
    monkeypatch.setattr("mcap.weights.locate.local_path", lambda _: None)
    for name in ("sd15", "owner/name"):
        with pytest.raises(MissingResourceError):
            prompt_readers(name)
        (warning,) = [
            item
            for item in findings_of(profile, load_settings(Globals(), backbone=name))
            if item.kind == "prompts"
        ]
        assert warning.level == "warning" and "was not looked at" in warning.message


def test_new_writes_what_check_accepts(tmp_path):
    readers = prompt_readers(str(tiny_folder()))
    profile = read_profile(write(tmp_path, new_profile("my-style"), "my-style"))
    assert not list(check_train(profile))
    assert not list(check_prompts(profile, readers))
    # The optional keys that it shows are right too.
    lines = new_profile("my-style").splitlines()
    shown = [line[2:] if line.startswith("# ") and " = " in line else line for line in lines]
    text = "\n".join(shown).replace('aspect = "1:1"', 'aspect = "35:45"')
    full = read_profile(write(tmp_path / "full", text, "my-style"))
    assert full.size_mm == (35, 45) and full.train and full.prompts.replace
    assert not list(check_train(full))


def test_the_commands(tmp_path, capsys, monkeypatch):
    import json

    from mcap import cli

    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path / "config"))

    def run(*args: str) -> tuple[int, dict]:
        code = cli.run([*args, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, result = run("profiles", "new", "my-style")
    path = tmp_path / "config/profiles/my-style.toml"
    assert code == 0 and Path(result["path"]) == path
    assert (tmp_path / "config/profiles/refs/my-style").is_dir()
    code, result = run("profiles", "new", "my-style")
    assert code == 2 and "is there already" in result["error"]
    code, result = run("profiles", "new", "My Style")
    assert code == 2
    code, result = run("profiles", "list")
    assert code == 0 and result["profiles"][0]["name"] == "my-style"
    code, result = run("profiles", "show", "my-style")
    assert code == 0 and result["profile"]["generate"]["count"] == 8
    code, result = run("profiles", "check", "my-style")
    assert code == 0 and result["profiles"][0]["ok"]
    (tmp_path / "config/profiles/refs/my-style/a.jpg").write_text("no picture")
    code, result = run("profiles", "check", "my-style")
    assert code == 3 and not result["profiles"][0]["ok"]
    write(tmp_path / "config/profiles", "schema = 2", "bad")
    code, result = run("profiles", "check", "my-style", "bad")
    assert code == 2 and [item["ok"] for item in result["profiles"]] == [False, False]
    assert cli.run(["profiles", "list"]) == 0
    shown = capsys.readouterr().out
    assert "my-style" in shown and "broken" in shown


def test_completion_knows_profiles(tmp_path, monkeypatch):
    from mcap.cli import complete

    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path))
    write(tmp_path / "profiles", SHORT.format("my-style"), "my-style")
    assert "my-style" in complete.profiles("my")


def test_a_profile_made_in_memory():
    profile = StyleProfile.model_validate({"schema": 1, "name": "x"})
    assert profile.path is None and profile.reference_paths() == []


def test_a_profile_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "passport.toml"
    path.write_bytes(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())
    assert read_profile(path).name == "passport"


@pytest.mark.parametrize("data", ["a = " + "[" * 5_000, "# " + "x" * 2**21])
def test_profiles_of_any_size_and_depth_are_refused_by_name(tmp_path, data):
    path = tmp_path / "passport.toml"
    path.write_text(data)
    with pytest.raises(UsageError, match=r"passport\.toml: .*(deep|larger)"):
        read_profile(path)
