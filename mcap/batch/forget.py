"""Forgetting a person: rows of the ledger, the task of a job array, the line on the pages."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mcap.batch.emit import LARGEST, TASKS
from mcap.batch.folder import LEDGER
from mcap.batch.ledger import Ledger
from mcap.batch.run import write_pages
from mcap.runtime.documents import read_json
from mcap.runtime.files import write_json
from mcap.runtime.lock import locked_folder
from mcap.runtime.text import file_stem


def forget_person(studio: Path, person: str) -> int:
    """Take a person out of everything that a studio folder keeps beside the person's own folder;
    return the number of jobs.

    ``person`` is the name, or that of the person's folder, as `mcap.batch.folder.studio_of` finds
    it for a path in it. 0 where ``studio`` has no ledger, or the ledger does not know the person.
    Removing the folder (`mcap.batch.folder.person_folder`) is for the caller, best before: the
    pages are written anew. Raises `UsageError` where a batch is at work in ``studio``.
    """
    if not (studio / LEDGER).is_file():
        return 0
    with locked_folder(studio, "mcap forget", "STUDIO"), closing(Ledger(studio)) as ledger:
        forgotten = ledger.forget(person)
        tasks = studio / TASKS
        if tasks.is_file():
            # The others keep their numbers, by which tasks that still wait find them.
            kept = [
                {"person": "", "orders": []}
                if file_stem(task["person"]).casefold() == file_stem(person).casefold()
                else task
                for task in read_json(tasks, LARGEST)
            ]
            write_json(tasks, kept)
        write_pages(ledger, studio)
    return forgotten
