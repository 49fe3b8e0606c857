"""The report command: what it writes, says and refuses."""

from __future__ import annotations

import json

from mcap import cli
from tests.support.generating import run
from tests.support.subjects import make_profile, make_subject
from tests.support.tiny import tiny_backbone


def test_report(tmp_path, capsys):
    subject = make_subject(tmp_path / "jane.mcap")
    run(subject, tiny_backbone(), tmp_path / "portraits", make_profile(), count=2)
    out = tmp_path / "me.html"

    def report(*arguments):
        code = cli.run(["report", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, said, _ = report(tmp_path / "portraits", "--out", out)
    assert code == 0 and said.strip().splitlines()[-1].endswith("me.html") and out.is_file()
    code, said, _ = report(tmp_path / "portraits", "--out", out, "--json")
    assert (json.loads(said)["portraits"], json.loads(said)["finished"]) == (2, 0)
    code, _, told = report(tmp_path / "portraits", "--out", tmp_path / "me.txt")
    assert code == 2 and "ends in .html" in told
    code, _, told = report(tmp_path, "--out", out)
    assert code == 2 and "holds no results" in told
