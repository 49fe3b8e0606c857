"""The engines: workers for GPUs, Ray's addresses and machines, files where no folder is shared."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from mcap.batch import BatchSettings, Job, run_batch
from mcap.batch.events import BatchEnded, JobEnded, JobStarted, Note, Tick, WorkerLost
from mcap.batch.folder import JobFolders
from mcap.contracts import WorkerPlan
from mcap.errors import McapError, MissingResourceError, UsageError
from mcap.registry import registry
from tests.support.simulated_jobs import PARTS, part_bytes, part_path

RUNNER = "tests.support.simulated_jobs:make_runner"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (mcap[ray])")


def plan(out: Path, **more) -> WorkerPlan:
    return WorkerPlan(RUNNER, out, **{"gpus": (), "threads": 1, **more})


@pytest.fixture
def started(monkeypatch):
    """The environments in which the local engine would start processes."""
    from mcap_plugins.local.engine import LocalEngine

    found = []
    monkeypatch.setattr(LocalEngine, "launch", lambda _, worker: found.append(worker.environment))
    return found


def test_a_worker_has_a_gpu_of_its_own(tmp_path, started):
    engine = registry().create("engine", "local")
    made = engine.start(plan(tmp_path, gpus=("0", "3"), threads=2))
    assert made.workers == ("1 on GPU 0", "2 on GPU 3") and made.threads == 2
    assert [one["CUDA_VISIBLE_DEVICES"] for one in started] == ["0", "3"]
    assert [one["OMP_NUM_THREADS"] for one in started] == ["2", "2"]


def test_a_gpu_is_shared_only_where_asked(tmp_path, started):
    engine = registry().create("engine", "local")
    with pytest.raises(UsageError, match=r"--workers 3: there are 2 GPUs.*--per-gpu"):
        engine.start(plan(tmp_path, gpus=("0", "1"), workers=3))
    engine = registry().create("engine", "local")
    engine.start(plan(tmp_path, gpus=("0", "1"), per_gpu=2))
    assert [one["CUDA_VISIBLE_DEVICES"] for one in started] == ["0", "0", "1", "1"]


def test_without_a_gpu_the_threads_are_divided(tmp_path, started, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    made = registry().create("engine", "local").start(plan(tmp_path, threads=None))
    assert len(made.workers) == 3 and made.threads == 4
    assert [one["CUDA_VISIBLE_DEVICES"] for one in started] == ["", "", ""]
    made = registry().create("engine", "local").start(plan(tmp_path, threads=None, workers=5))
    assert len(made.workers) == 5 and made.threads == 2


def test_a_worker_that_cannot_be_started_is_told_and_the_others_end(tmp_path):
    engine = registry().create("engine", "local")
    (tmp_path / "workers/2.log").mkdir(parents=True)  # no log can be written there
    with pytest.raises(IsADirectoryError):
        engine.start(plan(tmp_path, workers=2))
    engine.close()
    assert [worker.process.poll() for worker in engine.workers.values()] == [0]


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "mcap_plugins.ray.engine", raising=False)
    with pytest.raises(MissingResourceError, match=r"pip install 'mcap\[ray\]'"):
        registry().create("engine", "ray")


@needs_ray
@pytest.mark.parametrize("address", ["nonsense", "host:", "ray://host"])
def test_an_address_that_is_none(tmp_path, address):
    with pytest.raises(UsageError, match="is no address: give auto, HOST:6379"):
        registry().create("engine", "ray").start(plan(tmp_path, address=address))


@needs_ray
def test_an_address_where_nobody_answers(tmp_path):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(McapError, match=rf"--ray-address {address}: nothing answers there"):
            registry().create("engine", "ray").start(plan(tmp_path, address=address))


@needs_ray
def test_ray_gives_out_the_gpus_itself(tmp_path):
    with pytest.raises(UsageError, match="--gpus 0,1: Ray gives out the GPUs itself"):
        registry().create("engine", "ray").start(plan(tmp_path, gpus=("0", "1")))


@needs_ray
def test_a_node_that_does_not_come_up_is_told(tmp_path, monkeypatch):
    import ray

    def init(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    engine, before = registry().create("engine", "ray"), sys.stdout
    with pytest.raises(McapError, match="Ray cannot be reached: The current node timed out"):
        engine.start(plan(tmp_path))
    engine.close()
    assert sys.stdout is before


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict:
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return {"Alive": alive, "Resources": resources}


@needs_ray
@pytest.mark.parametrize(
    ("nodes", "wanted", "found"),
    [
        ([node(32, 4), node(8), node(64, 8, alive=False)], {}, (4, 8, 1.0)),
        ([node(32, 4)], {"per_gpu": 2}, (8, 4, 0.5)),
        ([node(32, 4)], {"workers": 2, "threads": 3}, (2, 3, 1.0)),
        ([node(32, 4)], {"gpus": ()}, (8, 4, 0.0)),
        ([node(8), node(2)], {}, (2, 2, 0.0)),
        ([node(8), node(8)], {"workers": 6}, (6, 2, 0.0)),
    ],
)
def test_the_workforce_of_a_cluster(tmp_path, nodes, wanted, found):
    from mcap_plugins.ray.engine import workforce

    assert workforce(plan(tmp_path, **{"gpus": None, "threads": None, **wanted}), nodes) == found


@needs_ray
def test_more_workers_than_gpus_are_refused(tmp_path):
    from mcap_plugins.ray.engine import workforce

    with pytest.raises(UsageError, match=r"--workers 5: the cluster has 4 GPUs.*--per-gpu"):
        workforce(plan(tmp_path, gpus=None, workers=5), [node(32, 4)])


@needs_ray
def test_what_rays_threads_print_does_not_reach_standard_output():
    from mcap_plugins.ray.engine import WithoutRay

    out, log = io.StringIO(), io.StringIO()
    stream = WithoutRay(out, log)
    print("{}", file=stream)
    thread = threading.Thread(
        target=print, args=("a worker died",), kwargs={"file": stream}, name="ray_listen_errors"
    )
    thread.start()
    thread.join()
    assert (out.getvalue(), log.getvalue()) == ("{}\n", "a worker died\n")


def test_files_travel_there_and_back(tmp_path):
    from mcap_plugins.ray.files import laid_down, listing, packed, results, sees, unpacked

    source, studio = tmp_path / "anna", tmp_path / "studio"
    source.mkdir()
    (source / "1.jpg").write_bytes(b"photo")
    folders = JobFolders(studio, "anna", "passport")
    folders.portraits.mkdir(parents=True)
    (folders.portraits / "earlier.png").write_bytes(b"earlier")
    (folders.home / ".mcap.lock").touch()
    order = {"studio": str(studio), "source": str(source), "person": "anna", "style": "passport"}
    there = unpacked(order, packed(order), tmp_path / "elsewhere")
    far = JobFolders(Path(there["studio"]), "anna", "passport")
    assert (Path(there["source"]) / "1.jpg").read_bytes() == b"photo"
    assert (far.portraits / "earlier.png").read_bytes() == b"earlier"
    assert not (far.home / ".mcap.lock").exists()
    (far.portraits / "new.png").write_bytes(b"new")
    (far.portraits / "earlier.png").unlink()
    laid_down(order, results(there))
    assert [path.name for path in folders.portraits.iterdir()] == ["new.png"]
    assert [path.name for path in (studio / "people").iterdir()] == ["anna"]

    probe = tmp_path / "probe"
    probe.write_text("token")
    known = {str(source): listing(source)}
    assert sees((str(probe), "token"), known)
    assert not sees((str(probe), "another"), known)
    assert not sees((str(tmp_path / "gone"), "token"), known)
    (source / "2.jpg").write_bytes(b"another")
    assert not sees((str(probe), "token"), known)


def test_a_photo_that_cannot_be_read_travels_by_its_name(tmp_path):
    from mcap_plugins.ray.files import packed, unpacked

    source = tmp_path / "anna"
    source.mkdir()
    (source / "1.jpg").write_bytes(b"photo")
    (source / "2.jpg").symlink_to(tmp_path / "nowhere")
    order = {"studio": str(tmp_path), "source": str(source), "person": "anna", "style": "passport"}
    there = Path(unpacked(order, packed(order), tmp_path / "elsewhere")["source"])
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        "1.jpg": b"photo", "2.jpg": b""
    }  # fmt: skip


@needs_ray
@needs_ray
def test_of_files_that_were_sent_nothing_stays_and_nobody_else_reads_them(tmp_path, monkeypatch):
    from mcap_plugins.ray.engine import Worker
    from mcap_plugins.ray.files import packed

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"a face")
    order = {"studio": str(tmp_path / "studio"), "person": "anna", "source": tmp_path / "photos"}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    seen = []

    def runner(placed):
        seen.append((Path(placed["source"]) / "a.png").read_bytes())
        assert [path.stat().st_mode & 0o777 for path in scratch.iterdir()] == [0o700]
        return {"exit_code": 0}

    worker = Worker.__new__(Worker)
    worker.runner, worker.busy, worker.stopping = runner, False, False
    outcome, data = worker.do(order, packed(order))
    assert seen == [b"a face"] and outcome["exit_code"] == 0 and data
    assert list(scratch.iterdir()) == []


@needs_ray
def test_a_clients_folder_that_changed_is_no_fault_of_a_machine(tmp_path, monkeypatch):
    from mcap_plugins.ray.engine import RayEngine

    (tmp_path / "anna").mkdir()
    engine, greeted = RayEngine(), []
    engine.plan = plan(tmp_path, sources=(tmp_path / "anna",), files="shared")
    engine.listings, engine.asked = engine.listed(), {"1": 0.0}
    monkeypatch.setattr(engine, "greet", greeted.append)
    (tmp_path / "anna" / "1.jpg").write_bytes(b"new")
    assert engine.welcome("1", "here", False, 0.0) == [] and greeted == ["1"]
    with pytest.raises(UsageError, match="--files shared: worker 1 on here does not see"):
        engine.welcome("1", "here", False, 0.0)


def undisturbed(out: Path, jobs: list[Job]) -> bool:
    """Return whether every part is what an undisturbed job writes."""
    return all(
        part_path(JobFolders(out, one.person, one.style), part).read_bytes()
        == part_bytes({"person": one.person, "style": one.style, "seed": one.seed}, part)
        for one in jobs
        for part in range(PARTS)
    )


@needs_ray
def test_a_token_that_ray_refuses_is_found_behind_its_other_errors():
    from mcap_plugins.ray.engine import of_the_token

    def raised(inner: Exception) -> Exception:
        try:
            raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379") from inner
        except ConnectionError as error:
            return error

    refused = RuntimeError("Failed to connect to GCS. RPC error: InvalidAuthToken: missing")
    assert of_the_token(raised(refused))
    assert not of_the_token(raised(RuntimeError("Failed to connect to GCS.")))


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_three_nodes_loses_one_in_the_middle(tmp_path, monkeypatch):
    """First with a shared folder, then with files that travel; jobs of the dead node are begun
    again elsewhere, and what is there at the end is what an undisturbed batch writes."""
    from tests.support.ray_cluster import cluster

    source = tmp_path / "photos"
    source.mkdir()
    # A batch before it in this process had another cluster, and Ray keeps that one's token.
    alone = tmp_path / "alone"
    first = Job("anna", source, "passport", 1)
    *_, ended = run_batch(
        [first],
        alone,
        registry().create("engine", "ray"),
        settings=BatchSettings(min_free_mb=0),
        plan=plan(alone, workers=1),
    )
    assert ended.done == 1 and undisturbed(alone, [first])
    with cluster(tmp_path, 1, 2, 2) as nodes:
        with monkeypatch.context() as other:
            other.setenv("RAY_AUTH_TOKEN", "another" * 8)
            with pytest.raises(McapError, match=r"refuses the token.*RAY_AUTH_TOKEN"):
                registry().create("engine", "ray").connect(plan(alone, address=nodes.address))

        # So long that the first still runs when the last of five workers has come up.
        jobs = [Job(f"person {n}", source, "passport", 8000) for n in range(15)]
        shared = tmp_path / "shared"
        events, busy, most = [], 0, 0
        for event in run_batch(
            jobs,
            shared,
            registry().create("engine", "ray"),
            settings=BatchSettings(min_free_mb=0),
            plan=plan(shared, workers=5, address=nodes.address),
        ):
            if not isinstance(event, Tick):
                events.append(event)
            busy += isinstance(event, JobStarted) - isinstance(event, JobEnded)
            most = max(most, busy)
            if busy == 5 and nodes.nodes[2].poll() is None:
                nodes.kill(2)
        ended = events[-1]
        lost = [
            event for event in events if isinstance(event, JobEnded) and event.cause == "worker"
        ]
        assert most == 5 and len(lost) == 2, events
        assert any(isinstance(event, WorkerLost) for event in events)
        assert ended == BatchEnded(done=15, failed=0, waiting=0, stopped=False)
        assert undisturbed(shared, jobs)

        copied = tmp_path / "copied"
        *_, ended = run_batch(
            jobs[:4],
            copied,
            registry().create("engine", "ray"),
            settings=BatchSettings(min_free_mb=0),
            plan=plan(copied, workers=2, address=nodes.address, files="copied"),
        )
        assert ended.done == 4 and undisturbed(copied, jobs[:4])

        # The probe that the engine writes is another one than the workers read.
        engine = registry().create("engine", "ray")
        unseen = tmp_path / "unseen"
        found = []
        for event in run_batch(
            [Job("anna", source, "passport", 500)],
            unseen,
            engine,
            settings=BatchSettings(min_free_mb=0),
            plan=plan(unseen, workers=1, address=nodes.address),
        ):
            if (unseen / ".mcap.shared").is_file():
                (unseen / ".mcap.shared").write_text("of another folder")
            found.append(event)
        notes = [event.text for event in found if isinstance(event, Note)]
        assert any("does not see" in text and "object store" in text for text in notes)
        assert found[-1].done == 1
        assert undisturbed(unseen, [Job("anna", source, "passport", 500)])
