"""Jobs out of folders and files: what is wrong is named by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcap.batch.folder import LEDGER, style_folder
from mcap.batch.jobs import Job, read_jobs
from mcap.errors import InputRejectedError, UsageError


@pytest.fixture
def clients(tmp_path) -> Path:
    for name in ("anna", "bob 10", "bob 2", ".hidden"):
        (tmp_path / "clients" / name).mkdir(parents=True)
    (tmp_path / "clients" / "note.txt").touch()
    return tmp_path / "clients"


def test_a_folder_has_a_person_in_each_subfolder(clients):
    jobs = read_jobs(clients, ("passport", "business"), seed=7)
    assert [(job.person, job.style, job.seed) for job in jobs] == [
        (person, style, 7)
        for person in ("anna", "bob 2", "bob 10")
        for style in ("passport", "business")
    ]
    assert jobs[0].source == clients / "anna"


def test_a_batch_among_the_people_is_none_of_them(clients):
    (clients / "studio").mkdir()
    (clients / "studio" / LEDGER).touch()
    assert [job.person for job in read_jobs(clients, ("passport",))] == ["anna", "bob 2", "bob 10"]


def test_a_toml_file_says_more_of_each(tmp_path):
    file = tmp_path / "jobs.toml"
    file.write_text(
        'style = "passport"\n'
        '[[jobs]]\nperson = "anna"\nsource = "photos/anna"\n'
        '[[jobs]]\nperson = "bob"\nsource = "/photos/bob"\nstyle = ["business", "my/lamp.toml"]\n'
        "seed = 3\noverrides = { identity = false, phase1_steps = 10 }\n"
    )
    first, *others = read_jobs(file)
    assert (first.person, first.style, first.seed) == ("anna", "passport", 0)
    assert first.source == tmp_path / "photos/anna"
    assert [job.style for job in others] == ["business", "my/lamp.toml"]
    assert others[0].overrides == ("identity=false", "phase1_steps=10")
    assert others[0].source == Path("/photos/bob")
    assert style_folder("my/lamp.toml") == "lamp"
    # The command line's --style is for those that name none, in place of the file's.
    assert [job.style for job in read_jobs(file, ("studio-bw",))][:2] == ["studio-bw", "business"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_file_as_spreadsheets_write_it(tmp_path, separator):
    file = tmp_path / "jobs.csv"
    lines = [
        ("person", " source ", "style", "seed", "overrides"),
        ("Jürgen", "j", "passport business", "4", "identity_weight=0.5 phase1_steps=9"),
        ("anna", "a", "", "", ""),
    ]
    text = "\r\n".join(separator.join(line) for line in lines)
    file.write_bytes(("\ufeff" + text).encode())
    jobs = read_jobs(file, ("studio-bw",), seed=1)
    assert [(job.person, job.style, job.seed) for job in jobs] == [
        ("Jürgen", "passport", 4),
        ("Jürgen", "business", 4),
        ("anna", "studio-bw", 1),
    ]
    assert jobs[0].overrides == ("identity_weight=0.5", "phase1_steps=9")
    assert jobs[0].origin == f"{file}, line 2"


BAD = {
    "jobs.toml": [
        (
            '[[jobs]]\npersn = "a"\nsource = "a"',
            "job 1: unknown key 'persn'. Did you mean 'person'",
        ),
        ('styles = "passport"', "unknown key 'styles'. Did you mean 'style'"),
        ('[[jobs]]\nperson = "a"\nstyle = "p"', "job 1: source is missing"),
        ('[[jobs]]\nperson = "a"\nsource = "a"', "job 1: has no style"),
        ('[[jobs]]\nperson = "a"\nsource = "a"\nstyle = "p"\nseed = -1', "seed = -1"),
        ('style = "p"\n[jobs]\nperson = "a"', "each under a line [[jobs]]"),
        ("style = 3", "style = 3: must be a name"),
        ("[[jobs]\n", "is not valid TOML"),
        ('style = "p"\n' + '[[jobs]]\nperson = "a"\nsource = "a"\n' * 2, "is there already"),
        (
            'style = "p"\n[[jobs]]\nperson = "a"\nsource = "a"\n'
            '[[jobs]]\nperson = "A"\nsource = "b"',
            "would share a folder",
        ),
        ('style = "p"\n[[jobs]]\nperson = ".a"\nsource = "a"', "begins with a dot"),
    ],
    "jobs.csv": [
        ("person,source,colour\na,a,red", "line 1: unknown column 'colour'"),
        ("person,source,style\na,a,p,q", "line 2: has more cells"),
        ("person,source,style\n,a,p", "line 2: person is missing"),
        ("person,source,style\na,a,Masked", "into the folder 'masked'"),
        ("person,source,style\na,a,my/thumbnails.toml", "which is for other files"),
        ("person,source,style\na,a,p-finished\na,a,p", "the finished pictures of another style"),
        ("person,source,style,seed\na,a,p,x", "line 2: seed = 'x'"),
        ('person,source,style\n"a,a,p', "after line 1: unexpected end"),
    ],
    "jobs.json": [("{}", "nor jobs.toml or jobs.csv")],
}


def test_finished_is_a_name_as_others_where_nobody_shares_it(tmp_path):
    (tmp_path / "jobs.csv").write_text("person,source,style\na,a,p-finished\nb,b,p\n")
    assert [job.person for job in read_jobs(tmp_path / "jobs.csv")] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "told"), [(name, *case) for name, cases in BAD.items() for case in cases]
)
def test_what_is_wrong_is_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        read_jobs(tmp_path / name)
    assert told in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_no_jobs_at_all(tmp_path):
    (tmp_path / "jobs.csv").write_text("person,source,style\n")
    with pytest.raises(InputRejectedError, match="holds no jobs"):
        read_jobs(tmp_path / "jobs.csv")
    with pytest.raises(UsageError, match="is not there"):
        read_jobs(tmp_path / "gone", ("p",))
    (tmp_path / "clients").mkdir()
    with pytest.raises(InputRejectedError, match="the folder is empty"):
        read_jobs(tmp_path / "clients", ("p",))


def test_latin_1_is_no_utf_8(tmp_path):
    (tmp_path / "jobs.csv").write_bytes("person,source\nJürgen,j".encode("latin-1"))
    with pytest.raises(UsageError, match="CSV UTF-8"):
        read_jobs(tmp_path / "jobs.csv", ("p",))


def test_two_jobs_of_one_key_share_a_folder():
    assert Job("Anna", Path("a"), "P").key == Job("anna", Path("b"), "p").key
