"""The data that pass between the stages, and what plugins say of themselves."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from mcap.contracts import (
    CHANGES,
    CONTRACT,
    BackbonePlan,
    DetectorInfo,
    EncoderInfo,
    Face,
    IdentityInfo,
    MaskerInfo,
    MetricInfo,
    RestorerInfo,
)
from mcap.registry import METHODS, wrong_fields
from tests.support import ROOT


def test_moving_a_face_moves_all_of_it():
    face = Face((1, 2, 3, 4), 0.9, np.ones((5, 2), np.float32), np.zeros((7, 2), np.float32))
    there = face.moved(10, 20, 2.0)
    assert there.box == (12, 24, 16, 28)
    assert np.array_equal(there.landmarks, np.tile(np.float32([12, 22]), (5, 1)))
    assert np.array_equal(there.mesh, np.tile(np.float32([10, 20]), (7, 1)))
    assert face.moved().box == face.box


INFOS = (
    DetectorInfo(),
    IdentityInfo(),
    MaskerInfo(),
    RestorerInfo("image", 2),
    BackbonePlan(),
    MetricInfo(),
    EncoderInfo(),
)


@pytest.mark.parametrize("info", INFOS, ids=lambda info: type(info).__name__)
def test_the_defaults_of_what_a_plugin_says_are_right_for_a_simple_one(info):
    assert wrong_fields(info) == []
    with pytest.raises(FrozenInstanceError):
        setattr(info, fields(info)[0].name, None)


@pytest.mark.parametrize("field", [field.name for field in fields(RestorerInfo)])
def test_each_field_of_a_wrong_type_is_named(field):
    wrong = replace(RestorerInfo("image", 2), **{field: object()})
    (told,) = wrong_fields(wrong, "info.")
    assert told.startswith(f"info.{field} must be ")


def test_a_whole_number_is_a_number_and_a_switch_is_neither():
    assert wrong_fields(IdentityInfo(same_person=0)) == []
    assert wrong_fields(IdentityInfo(same_person=True)) != []
    assert wrong_fields(RestorerInfo("image", True)) == ["scale must be int, not True"]


def test_every_change_of_the_contract_says_what_it_was():
    assert list(CHANGES) == list(range(1, CONTRACT + 1))


def test_nothing_is_probed_for():
    """What a plugin can do is read from its info; the registry checks once that it is there."""
    names = {field.name for info in INFOS for field in fields(info)} | set(METHODS.values())
    names |= {"same_person", "device", "enhance_picture", "face_restore"}
    for path in (*(ROOT / "mcap").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                probes = node.func.id in ("getattr", "hasattr") and len(node.args) > 1
                if probes and isinstance(node.args[1], ast.Constant):
                    assert node.args[1].value not in names, f"{path}:{node.lineno}"
                if node.func.id == "isinstance":
                    asked = {
                        name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)
                    }
                    assert not asked & {"MeshFinder", "FaceParser"}, f"{path}:{node.lineno}"
