"""``mcap evaluate`` on the tiny model: recipes compared, subjects measured, what is wrong told."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcap.cli import run
from mcap.contracts import IdentityInfo, MaskerInfo, MetricInfo, SafetyInfo
from mcap.images import provenance
from mcap.registry import Entry, registry
from mcap.training.timing import RunTime
from tests.support.tiny import MiddleFaceDetector, TinyIdentity, tiny_folder

SIDE = 160
PROFILE = """\
schema = 1
name = "plain"
title = "Plain light"
[references]
directory = "refs"
[framing]
head_height = [0.1, 0.9]
[generate]
steps = 1
count = 2
[train]
phase1_steps = 1
phase2_steps = 1
photos_for_all_steps = 1
identity_decode = "full"
crops = 1
"""


class Teacher(TinyIdentity):
    info = IdentityInfo(same_person=-1.0)  # everybody


class Judge(TinyIdentity):
    name = "judge"
    info = IdentityInfo(differentiable=False)

    def __init__(self):
        super().__init__(seed=1)


class Masker:
    info = MaskerInfo()

    def mask(self, image, face):
        height, width = image.shape[:2]
        y, x = np.mgrid[0:height, 0:width]
        distance = np.hypot(x - width / 2, y - height / 2)
        return np.clip((0.25 * width - distance) / 4, 0, 1).astype(np.float32)


class Passes:
    """Stands in for the safety classifier, whose weights are on the hub."""

    name = "nsfw"
    info = SafetyInfo()

    def score(self, image):
        return 0.0


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """These and the measures alone: whatever else is installed here does not count."""
    kinds = {
        "detector": {"tiny": MiddleFaceDetector},
        "identity": {"tiny": Teacher, "judge": Judge},
        "masker": {"tiny": Masker},
        "safety": {"nsfw": Passes},
    }
    for kind, factories in kinds.items():
        entries = {
            name: Entry(kind, name, made, "tests", licence="CC0-1.0", info=made.info)
            for name, made in factories.items()
        }
        monkeypatch.setitem(registry().entries, kind, entries)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def photo(path: Path, seed: int, face: bool = True, size=(SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    if not face:
        image[:8, :8] = 0
    Image.fromarray(image).save(path)


def lay_out(place: Path) -> Path:
    for number, person in enumerate(("ann", "bob")):
        for index in range(3):
            photo(place / "people" / person / f"{index}.png", 10 * number + index)
    for index in range(2):
        photo(place / "refs" / f"{index}.png", 50 + index)
    (place / "plain.toml").write_text(PROFILE)
    return place


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return lay_out(tmp_path)


TOOLS = ("--detector", "tiny", "--identity", "tiny", "--masker", "tiny", "--device", "cpu")


def compare(*extra: str, out: str = "out", source: str = "people") -> list[str]:
    command = ["evaluate", "--source", source, "--style", "./plain.toml", "--out", out, *TOOLS]
    return [*command, "--backbone", str(tiny_folder()), "--count", "2", *extra]


def measure(subject: str, *extra: str, out: str = "measured") -> list[str]:
    return ["evaluate", subject, "--style", "./plain.toml", "--out", out, *TOOLS, *extra]


def rows(out: str = "out") -> list[dict[str, str]]:
    with Path(out, "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison of two recipes on two people, to be copied."""
    place = lay_out(tmp_path_factory.mktemp("compared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in list(os.environ):
            if name.startswith("MCAP_"):
                patch.delenv(name)
        kinds = {
            "detector": ("tiny", MiddleFaceDetector),
            "masker": ("tiny", Masker),
            "safety": ("nsfw", Passes),
        }
        for kind, (name, made) in kinds.items():
            entry = Entry(kind, name, made, "tests", licence="none", info=made.info)
            patch.setitem(registry().entries, kind, {name: entry})
        networks = {
            made.name: Entry(
                "identity", made.name, made, "tests", licence="CC0-1.0", info=made.info
            )
            for made in (Teacher, Judge)
        }
        patch.setitem(registry().entries, "identity", networks)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
        assert run(compare("--against", "released")) == 0
    return place


@pytest.fixture
def finished(compared, tmp_path, monkeypatch):
    """A copy of it to work in."""
    place = tmp_path / "copy"
    shutil.copytree(compared, place)
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    return place


def test_a_row_a_picture_and_a_table_with_intervals(finished):
    found = rows()
    assert len(found) == 2 * 2 * 2
    assert {(row["person"], row["recipe"], row["seed"]) for row in found} == {
        (person, recipe, seed)
        for person in ("ann", "bob")
        for recipe in ("magicapture", "released")
        for seed in ("0", "1")
    }
    for row in found:
        assert -1 <= float(row["likeness"]) <= 1 and 0 <= float(row["style"]) <= 1
        assert row["faces"] == "1" and row["remark"] == ""
        assert provenance.read(finished / "out" / row["file"]).generated

    summary = json.loads((finished / "out" / "summary.json").read_text())
    assert summary["recipes"] == ["magicapture", "released"]
    likeness = summary["measures"]["likeness"]
    assert (likeness["network"], likeness["licence"]) == ("judge", "CC0-1.0")
    for recipe in summary["recipes"]:
        mean = likeness["means"][recipe]
        own = {
            person: np.mean(
                [
                    float(row["likeness"])
                    for row in found
                    if (row["recipe"], row["person"]) == (recipe, person)
                ]
            )
            for person in ("ann", "bob")
        }
        assert mean["mean"] == pytest.approx(np.mean(list(own.values())), abs=1e-4)
        low, high = mean["over_people"]
        assert low - 1e-9 <= mean["mean"] <= high + 1e-9
    difference = likeness["differences"]["released"]
    assert difference["values"] == 4 and difference["people"] == 2
    assert difference["verdict"] in ("none", "better", "worse")
    for name in ("strangers", "strangers-moved", "seconds", "memory", "size", "diversity"):
        assert set(summary["measures"][name]["means"]) == {"magicapture", "released"}, name
    for name in ("words", "style-clip", "aesthetics"):
        assert "mcap models pull" in summary["left_out"][name]
    assert "--against released" in summary["command"]


def test_the_same_command_trains_and_draws_nothing_again(finished, capsys, monkeypatch):
    before = (finished / "out" / "results.csv").read_bytes()

    def fail(*_, **__):
        raise AssertionError("work was done again")

    monkeypatch.setattr("mcap.training.loop.training_step", fail)
    monkeypatch.setattr("mcap.diffusion.sampling.denoise", fail)
    assert run(["--json", *compare("--against", "released")]) == 0
    told = capsys.readouterr()
    assert "4 trainings, 4 of them done; 8 pictures" in told.err
    result = json.loads(told.out)
    assert result["measures"]["likeness"]["means"]["released"]["values"] == 4
    assert Path(result["report"]).is_file()
    assert (finished / "out" / "results.csv").read_bytes() == before


def test_interrupted_it_goes_on_to_the_same_values(finished, capsys):
    """In the third of four trainings; what was finished before is found again."""
    steps = ("--against", "released", "--set", "phase2_steps=12", "--measures", "likeness")

    def interrupt() -> None:
        log = finished / "cut/subjects/bob-plain-magicapture-0.mcap/metrics.jsonl"
        while not log.exists() or log.read_text().count("\n") < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    code = run(compare(*steps, out="cut"))
    watcher.join()
    told = capsys.readouterr().err
    assert code == 130 and "training 3 of 4" in told and "--set phase2_steps=12" in told
    assert not (finished / "cut" / "results.csv").exists()
    assert run(compare(*steps, out="cut")) == 0
    assert "4 trainings, 2 of them done" in capsys.readouterr().err
    assert run(compare(*steps, out="whole")) == 0
    assert rows("cut") == [
        {**row, "file": row["file"].replace("whole", "cut")} for row in rows("whole")
    ]


def test_dry_run_says_how_many_and_how_long_and_writes_nothing(place, capsys):
    extra = ("--against", "released", "--repeats", "3", "--dry-run")
    assert run(["--json", *compare(*extra)]) == 0
    told = capsys.readouterr()
    plan = json.loads(told.out)
    assert (plan["people"], plan["trainings"], plan["pictures"]) == (2, 12, 24)
    assert "magicapture, released on 2 people: 12 trainings" in told.err
    assert not (place / "out").exists()


def test_interrupted_while_a_training_is_saved_it_begins_no_other(place, capsys, monkeypatch):
    from mcap.cli import compare_recipes

    def show_and_interrupt(*given):
        last = show_events(*given)
        os.kill(os.getpid(), signal.SIGINT)
        return last

    show_events = compare_recipes.show_events
    monkeypatch.setattr(compare_recipes, "show_events", show_and_interrupt)
    assert run(compare("--measures", "faces")) == 130
    assert "Interrupted after training 1 of 2" in capsys.readouterr().err
    assert [path.name for path in (place / "out" / "subjects").iterdir()] == [
        "ann-plain-magicapture-0.mcap"
    ]


@pytest.mark.parametrize("border", [False, True])
def test_the_time_counts_pictures_of_strangers_once_and_borders(place, capsys, monkeypatch, border):
    """They are drawn by the first training that needs them; a border is drawn with a picture."""
    from mcap.cli import compare_recipes

    def timed(request, plan, *rest):
        once = {"class pictures": 60.0} if plan.recipe.class_pictures else {}
        return replace(plan, time=RunTime({1: 0.0, 2: 3.0}, timed=True, once=once))

    monkeypatch.setattr(compare_recipes.training, "timed_plan", timed)
    monkeypatch.setattr(compare_recipes, "time_pictures", lambda *given: 10.0)  # two
    if border:
        text = PROFILE.replace("[framing]", "[framing]\ndraw_border = true")
        (place / "plain.toml").write_text(text)
    rivals = ("--against", "custom-diffusion,dreambooth-lora", "--dry-run")
    keys = ("--set", "phase1_steps=0", "--set", "phase2_steps=1")
    assert run(["--json", *compare(*rivals, *keys)]) == 0
    trainings, pictures = 2 * 3, 2 * (1.5 if border else 1.0)
    drawn = trainings * (pictures + 2) * 5.0  # the last two without the identity word
    assert json.loads(capsys.readouterr().out)["seconds"] == trainings * 3 + 60 + drawn
    if not border:
        search = ("--search", "lora_rank=2,4", *rivals, *keys)
        assert run(["--json", *compare(*search)]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["seconds"] == 3 * plan["trainings_of_each"] * 3 + 60


def test_who_has_no_usable_photo_is_a_row_that_says_so(place, capsys):
    for path in (place / "people" / "bob").iterdir():
        photo(path, 1, face=False)
    for path in sorted((place / "people" / "ann").iterdir())[1:]:
        path.unlink()  # one photo: it is trained on, and has no others to be compared with
    assert run(compare("--measures", "likeness,ceiling")) == 0
    told = capsys.readouterr().err
    assert "bob-plain-magicapture-0: No usable photo" in told
    found = rows()
    assert [row["person"] for row in found] == ["ann", "ann", "bob"]
    assert "no face" in found[2]["remark"] and found[2]["file"] == ""
    assert found[0]["likeness"] != ""
    summary = json.loads((place / "out" / "summary.json").read_text())
    assert summary["measures"]["ceiling"]["means"] == {}
    assert summary["measures"]["likeness"]["means"]["magicapture"]["over_people"] is None


@pytest.mark.parametrize(
    ("change", "extra", "code", "words"),
    [
        (None, ["--against", "releasd"], 2, "magicapture, textual-inversion"),
        (None, ["--measures", "likenes"], 4, "likeness"),
        (None, ["--measure-with", "nobody"], 4, "judge"),
        (None, ["--images", "people"], 2, "--images"),
        ("empty", [], 3, "is empty"),
        ("nobody", [], 2, "is no folder"),
        ("faceless", [], 3, "no face"),
    ],
)
def test_wrong_input_is_told_before_any_training(place, capsys, change, extra, code, words):
    source = "people"
    if change is not None:
        source = change
    if change == "empty":
        (place / "empty").mkdir()
    if change == "faceless":
        photo(place / "faceless" / "ann" / "0.png", 0, face=False)
    assert run(compare(*extra, source=source)) == code
    assert words in capsys.readouterr().err
    assert not (place / "out" / "subjects").exists()


def test_another_run_s_subjects_are_never_trained_over(finished, capsys):
    assert run(compare("--against", "released", "--set", "lora_rank=3")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "recipe (lora_rank) changed" in told and "another --out" in told


ANN = "out/subjects/ann-plain-magicapture-0.mcap"


def test_subjects_are_drawn_from_and_measured(finished, capsys):
    shutil.copytree(ANN, "me.mcap")
    extra = ("--source", "people", "--count", "2", "--json")
    assert run(measure("me.mcap", "out/subjects/bob-plain-released-0.mcap", *extra)) == 0
    result = json.loads(capsys.readouterr().out)
    people = {(one["person"], one["recipe"]) for one in result["subjects"]}
    assert people == {("ann", "magicapture"), ("bob", "released")}
    earlier = {(row["person"], row["recipe"], row["seed"]): row for row in rows()}
    for row in rows("measured"):
        before = earlier[row["person"], row["recipe"], row["seed"]]
        assert row["likeness"] == before["likeness"] and row["style"] == before["style"]
    # Nobody is in both, so nothing can be compared.
    assert result["measures"]["likeness"]["differences"] == {}


def test_a_folder_s_pictures_of_mixed_sizes_and_without_faces(finished, capsys):
    photo(finished / "shots" / "small.png", 1, size=(96, 80))
    photo(finished / "shots" / "large.png", 2, size=(300, 420))
    photo(finished / "shots" / "wall.png", 3, face=False)
    (finished / "shots" / "notes.png").write_text("no picture")
    extra = ("--source", "people", "--images", "shots", "--json")
    assert run(measure(ANN, *extra)) == 0
    result = json.loads(capsys.readouterr().out)
    found = {Path(row["file"]).name: row for row in rows("measured")}
    assert set(found) == {"small.png", "large.png", "wall.png"}
    assert found["wall.png"]["likeness"] == "" and "no face found" in found["wall.png"]["remark"]
    assert "does not say that it was generated" in found["small.png"]["remark"]
    (subject,) = result["subjects"]
    assert (subject["pictures"], subject["without_face"]) == (3, 1)
    assert "without the identity word" in subject["lacking"]["strangers"]
    assert result["measures"]["faces"]["means"]["magicapture"]["mean"] == pytest.approx(2 / 3)
    for path in (finished / "shots").iterdir():
        photo(path, 4, face=False)
    assert run(measure(ANN, *extra, out="faceless")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["measures"]["likeness"]["means"] == {}
    assert result["measures"]["faces"]["means"]["magicapture"]["mean"] == 0


def test_a_network_that_taught_measures_only_where_it_is_insisted_on(finished, capsys, monkeypatch):
    monkeypatch.delitem(registry().entries["identity"], "judge")
    extra = ("--source", "people", "--count", "2", "--json")
    assert run(measure(ANN, *extra)) == 0
    result = json.loads(capsys.readouterr().out)
    for name in ("likeness", "ceiling", "leak", "strangers"):
        assert "'tiny' taught" in result["left_out"][name]
        assert "--measure-with tiny" in result["left_out"][name]
    assert "copying" in result["measures"]  # which needs no network
    assert run(measure(ANN, *extra, "--measure-with", "tiny", out="insisted")) == 0
    likeness = json.loads(capsys.readouterr().out)["measures"]["likeness"]
    assert likeness["network"] == "tiny" and likeness["network_taught"]
    assert "it taught, so it flatters" in (finished / "insisted" / "report.html").read_text()
    assert run(measure(ANN, *extra, "--measures", "likeness", out="none")) == 4
    assert "No measure can be taken" in capsys.readouterr().err


def test_without_the_photos_the_measures_that_need_them_are_told(finished, capsys):
    assert run(measure(ANN, "--count", "2", "--json")) == 0
    (subject,) = json.loads(capsys.readouterr().out)["subjects"]
    assert "no photo of the person" in subject["lacking"]["likeness"]
    assert subject["values"]["diversity"] > 0


def test_one_subject_that_cannot_be_measured_stops_no_other(finished, capsys):
    other = str(tiny_folder(seed=3))
    bob = "out/subjects/bob-plain-magicapture-0.mcap"
    shutil.copytree(bob, "broken.mcap")
    (finished / "broken.mcap" / "adapter.safetensors").write_bytes(b"cut")
    extra = ("--source", "people", "--count", "2", "--measures", "faces", "--json")
    assert run(measure("broken.mcap", ANN, *extra)) == 0
    result = json.loads(capsys.readouterr().out)
    assert [bool(one["remark"]) for one in result["subjects"]] == [True, False]
    assert "not the file that training wrote" in result["subjects"][0]["remark"]
    # A backbone that it was not trained on is an error where it is the only subject.
    assert run(measure(ANN, *extra, "--backbone", other, out="other")) == 2
    assert "has other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        (["--against", "released"], 2, "--against"),
        (["--images", "people", "--images", "people"], 2, "one for each"),
        (["--images", "nowhere"], 2, "no such folder"),
        (["--images", "hollow"], 3, "is empty"),
        (["--images", "out/pictures/bob-plain-magicapture-0"], 3, "another subject"),
        (["--source", "nowhere"], 2, "no such file"),
    ],
)
def test_wrong_input_with_subjects(finished, capsys, extra, code, words):
    (finished / "hollow").mkdir()
    assert run(measure(ANN, *extra)) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_nothing_to_do_is_told_and_another_command_s_folder_is_not_taken(finished, capsys):
    assert run(["evaluate", "--out", "x"]) == 2
    assert "--source PEOPLE and --style" in capsys.readouterr().err
    pictures = "out/pictures/ann-plain-magicapture-0"
    assert run(measure(ANN, out=pictures)) == 2
    assert "mcap generate" in capsys.readouterr().err


def test_a_plugin_s_metric_takes_part(finished, capsys, monkeypatch):
    class Darkness:
        info = MetricInfo(better="lower", range=(0.0, 1.0), unit="share")

        def measure(self, given):
            return [1 - picture.image.mean() / 255 for picture in given.pictures]

    entry = Entry("metric", "darkness", Darkness, "tests", licence="MIT", info=Darkness.info)
    monkeypatch.setitem(registry().entries["metric"], "darkness", entry)
    assert run(measure(ANN, "--measures", "darkness", "--count", "2")) == 0
    assert "darkness" in capsys.readouterr().out
    for row in rows("measured"):
        image = np.asarray(Image.open(finished / "measured" / row["file"]))
        assert float(row["darkness"]) == pytest.approx(1 - image.mean() / 255, abs=1e-5)


def test_a_search_gives_each_recipe_the_same_trainings_and_its_best_keys_are_compared(
    place, capsys
):
    searched = ("--search", "lora_rank=1,2", "--count", "1")
    assert run(["--json", *compare(*searched, out="searched")]) == 0
    told = capsys.readouterr()
    assert "3 candidates of each of magicapture; 5 trainings of each" in told.err
    found = json.loads(told.out)["recipes"]["magicapture"]
    assert [(one["cells"], len(one["scores"])) for one in found["rungs"]] == [(1, 3), (2, 2)]
    scores = {tuple(one["set"]): one["score"] for one in found["rungs"][1]["scores"]}
    assert tuple(found["best"]) == max(scores, key=scores.get)
    assert len(list((place / "searched" / "subjects").iterdir())) == 5

    best = {"magicapture": ["lora_rank=2"]}
    file = place / "searched" / "search.json"
    kept = json.loads(file.read_text())
    kept["recipes"]["magicapture"]["best"] = best["magicapture"]
    file.write_text(json.dumps(kept))
    tuned = ("--tuned", str(file), "--measures", "faces", "--count", "1")
    assert run(compare(*tuned, out="tuned")) == 0
    manifest = json.loads(
        (place / "tuned/subjects/ann-plain-magicapture-0.mcap/manifest.json").read_text()
    )
    assert manifest["recipe"]["lora_rank"] == 2
    file.write_text("{}")
    assert run(compare(*tuned, out="tuned")) == 2
    assert "--tuned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--search", "lora_rnak=1"], "lora_rank"),
        (["--search", "lora_rank"], "--search lora_rank"),
        (["--search", "lora_rank=1", "--repeats", "2"], "--repeats"),
    ],
)
def test_a_search_that_cannot_be_is_told_before_any_work(place, capsys, extra, words):
    assert run(compare(*extra)) == 2
    assert words in capsys.readouterr().err
    assert not (place / "out" / "subjects").exists()


class Person(Masker):
    """Sees more than the face."""

    def mask(self, image, face):
        return np.ones(image.shape[:2], np.float32)


@pytest.mark.parametrize("region", ["face", "head"])
def test_what_is_compared_is_what_mcap_train_trains(place, capsys, monkeypatch, region):
    kinds = registry().entries["masker"]
    person = Entry("masker", "person", Person, "tests", licence="none", info=Person.info)
    monkeypatch.setitem(registry().entries, "masker", {**kinds, "person": person})
    shutil.rmtree(place / "people" / "bob")
    keys = ("--set", f"subject_region={region}", "--set", "phase2_lora_lr=0.05")
    assert run(compare(*keys, "--measures", "size", "--against", "no-identity")) == 0
    command = ["train", "--source", "people/ann", "--style", "./plain.toml", *TOOLS, *keys]
    backbone = ["--backbone", str(tiny_folder()), "--seed", "0"]
    for recipe in ("magicapture", "no-identity"):
        alone = place / f"{recipe}.mcap"
        assert run([*command, *backbone, "--recipe", recipe, "--out", str(alone)]) == 0
        made = place / "out" / "subjects" / f"ann-plain-{recipe}-0.mcap"
        files = json.loads((alone / "manifest.json").read_text())["files"]
        assert json.loads((made / "manifest.json").read_text())["files"] == files


def test_every_recipe_is_compared_and_leaves_the_model_as_it_was(place, capsys):
    """Strangers of the untouched model come from the same weights after each of them."""
    from mcap.training.recipe import RECIPES

    shutil.rmtree(place / "people" / "bob")
    # instant needs a model that brings an identity encoder.
    others = [name for name in RECIPES if name not in ("magicapture", "instant")]
    few = ("--count", "1", "--measures", "faces,strangers-moved,size", "--json")
    few = (*few, "--set", "phase2_lora_lr=0.05")  # one step is seen
    few = (*few, "--set", "prior_images=2")
    assert run(compare("--against", ",".join(others), *few)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recipes"] == ["magicapture", *others]
    assert [one["remark"] for one in result["subjects"]] == [None] * (len(others) + 1)
    moved = result["measures"]["strangers-moved"]["means"]
    assert set(moved) == {"magicapture", *others}
    # A recipe that learns words alone cannot move who is drawn without them.
    assert moved["textual-inversion"]["mean"] == pytest.approx(0, abs=1e-6)
    assert moved["magicapture"]["mean"] > 0
