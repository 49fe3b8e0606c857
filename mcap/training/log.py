"""metrics.jsonl and TensorBoard's files, cut back to the checkpoint on a resume."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mcap.runtime.files import FILE_MODE, make_folder

if TYPE_CHECKING:
    from pathlib import Path

    from mcap.subjects.writer import SubjectWriter
    from mcap.training.events import StepEvent
    from mcap.training.previews import Preview


MACHINE = "local"
"""Name of the machine in the names of TensorBoard's files."""


@contextmanager
def unnamed_machine() -> Iterator[None]:
    """Let TensorBoard name its files after no machine: a host's name is often its owner's."""
    from tensorboard.summary.writer import event_file_writer

    named = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: MACHINE)
    try:
        yield
    finally:
        event_file_writer.socket = named


@contextmanager
def quiet_writer() -> Iterator[None]:
    """Print no traceback where TensorBoard's thread cannot write: it raises that in ours as well,
    at the next point or at the end, and there it is told in a sentence."""
    from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

    shown = threading.excepthook

    def show(failure: threading.ExceptHookArgs) -> None:
        ours = isinstance(failure.thread, _AsyncWriterThread)
        if not (ours and isinstance(failure.exc_value, OSError)):
            shown(failure)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = shown


class RunLog:
    """A line of metrics.jsonl and a point of TensorBoard's curves for each step."""

    def __init__(self, writer: SubjectWriter, done: int) -> None:
        """``done``: steps of the checkpoint that a run goes on from; later points are dropped."""
        self.writer = writer
        self.done = done
        self.board: Any = None
        self.around = ExitStack()

    def __enter__(self) -> RunLog:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.writer.tensorboard
        make_folder(folder)
        self.around.enter_context(quiet_writer())
        with unnamed_machine():
            self.board = SummaryWriter(str(folder), purge_step=self.done + 1)
        for file in folder.iterdir():
            file.chmod(FILE_MODE)  # TensorBoard makes its own by the umask
        return self

    def __exit__(self, *_: object) -> None:
        with self.around:
            self.board.close()

    def write(self, event: StepEvent) -> None:
        """Log a step."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.writer.log(
            {
                "step": event.step,
                "phase": event.phase,
                "losses": dict(event.losses),
                "lr": dict(event.lr),
                "skipped": dict(event.skipped),
                "seconds": round(event.seconds, 4),
                "memory_mb": round(event.memory_mb, 1),
            }
        )
        curves = {f"loss/{name}": value for name, value in event.losses.items()}
        curves |= {f"lr/{name}": rate for name, rate in event.lr.items()}
        # One record for all of them: TensorBoard opens its file for every one.
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves.items()]
        self.board.file_writer.add_summary(Summary(value=points), event.step)

    def preview(self, step: int, path: Path, preview: Preview) -> None:
        """Add a preview to TensorBoard, and a line of its own to metrics.jsonl."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        record: dict[str, Any] = {"step": step, "preview": f"{path.parent.name}/{path.name}"}
        if preview.similarity is not None:
            record["similarity"] = round(preview.similarity, 4)
            self.board.add_scalar("preview/similarity", preview.similarity, step)
        self.writer.log(record)
        # The file itself: what TensorBoard would write of the pixels has no marks.
        width, height = preview.size
        picture = Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=preview.jpeg
        )
        summary = Summary(value=[Summary.Value(tag="preview", image=picture)])
        self.board.file_writer.add_summary(summary, step)
