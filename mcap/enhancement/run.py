"""Every picture along the one path: planned, worked on, finished, written.

    OUT/
      NAME.png               one picture an input, with all that the input's file carried
      sheets/NAME.png        where asked: the print sheet
      previews/              small JPEG files for the report, before and after
      contact-sheet.jpg      before and after, the picture and its largest face
      results.jsonl          one line a picture, similarity of every face in it: those of this
                             run, then those of earlier ones that lie there
      report.html            the same to look at

Every file is whole or not there, and a picture that is there already, made of the same input with
the same settings, is used again. The inputs are only read; no other picture is overwritten.

(This module is not called ``enhance``, as its function is: once imported, a submodule of that name
would take the function's place in the package.)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from mcap.enhancement import report
from mcap.enhancement.events import (
    Enhanced,
    EnhancementFinished,
    EnhancementPlanned,
    Event,
    Refused,
)
from mcap.enhancement.finish import finish
from mcap.enhancement.folder import EnhancedFolder
from mcap.enhancement.picture import PictureEnhancer
from mcap.enhancement.plan import Enhancement, Job
from mcap.enhancement.write import write
from mcap.errors import InputRejectedError


def enhance(paths: Sequence[Path], out: Path, run: Enhancement) -> Generator[Event, None, None]:
    """Enhance pictures one after the other into the folder ``out``.

    Yields `EnhancementPlanned`, then for each of ``paths`` its `TilesDone` and an `Enhanced` or
    `Refused`, then `EnhancementFinished`. A generator that is closed early leaves whole files.

    Raises `UsageError` where ``out`` is a file or holds another command's results, `OutOfMemory`
    where even small tiles do not fit, `McapError` for a restorer that gives no picture.
    """
    folder = EnhancedFolder(out, run.settings.format)
    enhancer = PictureEnhancer(run)
    jobs = run.jobs(paths)
    there = {
        job: found
        for job in jobs
        if isinstance(job, Job) and (found := folder.find(job)) is not None
    }
    waiting = [job for job in jobs if isinstance(job, Job) and job not in there]
    yield EnhancementPlanned(len(jobs), len(waiting), sum(job.tiles for job in waiting))

    done: list[Enhanced] = []
    refused: list[Refused] = []
    for job in jobs:
        event: Enhanced | Refused
        if isinstance(job, Refused):
            event = job
        elif job in there:
            event = there[job]
        else:
            try:
                canvas = yield from enhancer.enhance(job)
                event = write(run, job, canvas, finish(run, canvas), folder)
            except InputRejectedError as error:
                event = Refused.because(job.path, error)
        if isinstance(event, Refused):
            refused.append(event)
        else:
            done.append(event)
            if event.new:
                # What is there is known, whatever comes next.
                folder.write_results(*folder.with_earlier(done, refused))
        yield event

    shown, shown_refused = folder.with_earlier(done, refused)
    results = folder.write_results(shown, shown_refused)
    profile_notice = run.finish.profile.notice if run.finish else ""
    notices = [notice for notice in (run.notice, profile_notice) if notice]
    sheet = report.write_contact_sheet(out, shown, notice=run.notice, marks=run.marks)
    page = report.write_report(
        out, shown, shown_refused, identity=run.tools.identity.name, notices=notices
    )
    yield EnhancementFinished(tuple(done), tuple(refused), results, sheet, page)
