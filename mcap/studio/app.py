"""The page as a Starlette application: its addresses, and who may ask for them.

Nobody is answered without the token, which comes with the first address and stays in a cookie; nor
under another name than this machine's own, as a page elsewhere would use that lets its name lead
here; nor when a page of another origin sends a form. What a browser is given loads nothing from
anywhere else and may not.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcap.errors import InputRejectedError, McapError, UsageError
from mcap.generation.summary import reduced_jpeg
from mcap.results.html import render_page, templates
from mcap.runtime.files import why
from mcap.studio import commands, uploads, views
from mcap.studio.folder import StyleFolders, add_person, people_of
from mcap.studio.jobs import OPEN, Jobs
from mcap.studio.words import on_the_page
from mcap.style.id_documents import rules
from mcap.subjects.manifest import is_subject_folder, read_manifest
from mcap.training.manifest import CONSENT

HOSTS = frozenset({"127.0.0.1", "localhost"})
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; "
        "font-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Faces: they are not left in the browser's folder.
    "cache-control": "no-store",
}
SCRIPT = Path(__file__).with_name("page.js")
THUMBNAIL_SIDE, PICTURE_SIDE = 320, 640
"""Longer side in pixels of photos and pictures as the page shows them."""
TICK_SECONDS = 0.5
MOST_FIELDS = 500
"""Of a form; a checkbox a picture is one."""

Answer = Callable[[Request], Response]
Action = Callable[[Request, FormData], str]
"""Does what a button says and returns the address to go on to."""


class Guard:
    """Refuses whoever does not come with the token, by this machine's own name, from this page."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *given]}
            await send(message)

        request = Request(scope)
        answer = self.refusal(request)
        await (self.app if answer is None else answer)(scope, receive, send_with_headers)

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to somebody who is not let in yet; None for whoever is."""
        host = request.headers.get("host", "")
        if urlsplit(f"//{host}").hostname not in HOSTS:
            return Response("This page is at 127.0.0.1 alone.", 403)
        origin = request.headers.get("origin")
        if request.method != "GET" and origin is not None and urlsplit(origin).netloc != host:
            return Response("This form comes from another page.", 403)
        cookie = f"mcap-studio-{urlsplit(f'//{host}').port or 80}"  # ports share their cookies
        given = parse_qs(request.url.query).get("token", [""])[0]
        if self.is_token(given):
            there = RedirectResponse(request.url.path, 303)
            there.set_cookie(cookie, given, httponly=True, samesite="strict", path="/")
            return there
        if self.is_token(request.cookies.get(cookie, "")):
            return None
        return HTMLResponse(render_page("app_refused.html"), 403)

    def is_token(self, given: str) -> bool:
        """Return whether a text is the token, in a time that says nothing of it."""
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


@dataclass(frozen=True)
class Choices:
    """Recipes and backbones that can be chosen: name -> what it is; the first is the default."""

    recipes: Mapping[str, str]
    backbones: Mapping[str, str]


class Studio:
    """The views of a studio and what its buttons do."""

    def __init__(self, folder: Path, jobs: Jobs, choices: Choices) -> None:
        self.folder, self.jobs, self.choices = folder, jobs, choices
        self.told: dict[str, list[str]] = {}
        """Person -> sentences for the next look at their page; "" is everybody's."""
        self.keeping = threading.Lock()
        """Held while photos are copied: two tabs could choose the same free name."""
        self.leaving: set[str] = set()
        """People who are being deleted, for whom nothing begins any more."""

    def page(self, template: str, whose: str, **values: Any) -> Response:
        """Return a filled template with what is to be told there once."""
        told = self.told.pop(whose, [])
        return HTMLResponse(render_page(template, told=told, **values))

    def person(self, request: Request) -> str:
        """Return the person of an address; 404 where there is none of that name."""
        found = views.known(request.path_params["person"], people_of(self.folder))
        if found is None or found in self.leaving:
            raise HTTPException(404)
        return found

    def subject_of(self, person: str) -> Path | None:
        """Return the photo that was said to show who the person is, while it is there."""
        mask = views.latest(self.jobs.of(person), "mask")
        photo = None if mask is None else commands.subject_of(mask.words)
        return photo if photo is not None and photo.is_file() else None

    def mask(self, folders: StyleFolders) -> None:
        """Let a person's photos be looked at."""
        self.jobs.add(folders.person, commands.mask(folders, self.subject_of(folders.person)))

    def folders(self, request: Request) -> StyleFolders:
        """Return the folders of the person and the style of an address."""
        person = self.person(request)
        asked = request.path_params["style"]
        # An open page asks again and again: of a style that is worked in, the folder's name
        # is enough, and no profile is read.
        style = views.known(asked, views.subjects_of(self.folder, person)) or views.known(
            asked, (each.name for each in views.styles())
        )
        if style is None:
            raise HTTPException(404)
        return StyleFolders(self.folder, person, style)

    # Views.

    def index(self, request: Request) -> Response:
        """Everybody, and a form for somebody new."""
        return self.page("app_people.html", "", people=views.everybody(self.folder, self.jobs))

    def person_page(self, request: Request) -> Response:
        """A person's photos with their verdicts, and the styles to choose from."""
        person = self.person(request)
        folders = StyleFolders(self.folder, person, "")
        jobs = self.jobs.of(person)
        mask = views.latest(jobs, "mask")
        looking = mask is not None and mask.state in OPEN
        cards, advice = views.photo_cards(folders, looking=looking)
        failed = ""
        if mask is not None and mask.state == "failed":
            failed = on_the_page(str((mask.result() or {}).get("error", "")))
        subject = self.subject_of(person)
        return self.page(
            "app_person.html",
            person,
            person=person,
            base=views.address("people", person),
            photos=cards,
            good=sum(card["word"] == "good" for card in cards),
            advice=advice,
            failed=failed,
            looking=looking,
            subject="" if subject is None else subject.name,
            unseen=any(card["mark"] == "open" for card in cards) and not looking,
            styles=views.style_cards(),
            works=views.works(self.folder, person),
            choices=self.choices,
            live=self.live_values(person, None),
            history=[views.job_line(job, self.jobs) for job in reversed(jobs)],
        )

    def style_page(self, request: Request) -> Response:
        """The plan, the training and the pictures of a person in a style."""
        folders = self.folders(request)
        everything = self.jobs.of(folders.person)
        jobs = views.of_style(everything, folders)
        state, notice = "", ""
        if is_subject_folder(folders.subject):
            state = read_manifest(folders.subject).state
        found = next((each for each in views.styles() if each.name == folders.style), None)
        if found is not None and found.profile is not None:
            notice = found.profile.notice
        training = views.latest(jobs, "train")
        portraits, judged = views.portrait_cards(folders)
        documents = {name: rule.title for name, rule in rules().documents.items()}
        return self.page(
            "app_style.html",
            folders.person,
            person=folders.person,
            style=folders.style,
            title=found.profile.title if found and found.profile else folders.style,
            notice=notice,
            up=views.address("people", folders.person),
            base=views.address("people", folders.person, "in", folders.style),
            state=state,
            busy=[job.title for job in jobs if job.state in OPEN],
            plan=views.plan_of(jobs, everything),
            training=None if training is None else views.job_line(training, self.jobs),
            failures=[
                views.job_line(job, self.jobs)
                for title in ("generate", "edit", "enhance")
                if (job := views.latest(jobs, title)) and job.state in ("failed", "interrupted")
            ],
            consent=CONSENT,
            portraits=portraits,
            judged=judged,
            edits=views.edit_cards(folders),
            prompts=views.prompts_of(folders),
            finished=views.finished_cards(folders),
            framed=(None if found is None or found.profile is None else found.profile),
            documents=documents,
            live=self.live_values(folders.person, folders),
            history=[views.job_line(job, self.jobs) for job in reversed(jobs)],
        )

    def live_values(self, person: str, folders: StyleFolders | None) -> dict[str, Any]:
        """Return what changes while jobs run."""
        jobs = self.jobs.of(person)
        running = [job for job in jobs if job.state in OPEN]
        training = any(job.title == "train" for job in running)
        style = [] if folders is None else ["in", folders.style]
        return {
            "address": views.address("people", person, *style, "live"),
            "stamp": views.stamp(jobs),
            "running": [
                views.progress_of(job) | {"stop": views.job_line(job, self.jobs)["stop"]}
                for job in running
            ],
            "previews": views.previews_of(folders) if folders is not None and training else [],
        }

    def live(self, request: Request) -> Response:
        """The same as JSON, its parts rendered, for the page's script.

        While photos are looked at, their verdicts are parts, too.
        """
        folders = self.folders(request) if "style" in request.path_params else None
        person = self.person(request)
        values = self.live_values(person, folders)
        parts = {
            name: templates().get_template(f"app_{name}.html").render(live=values)
            for name in ("progress", "previews")
        }
        mask = views.latest(self.jobs.of(person), "mask")
        if folders is None and mask is not None and mask.state in OPEN:
            cards, _ = views.photo_cards(StyleFolders(self.folder, person, ""), looking=True)
            verdict = templates().get_template("app_verdict.html")
            parts |= {card["part"]: verdict.render(photo=card) for card in cards}
            parts["looked"] = templates().get_template("app_looked.html").render(photos=cards)
        return JSONResponse({"stamp": values["stamp"], "parts": parts})

    def photo(self, request: Request) -> Response:
        """A person's photo, reduced."""
        folder = StyleFolders(self.folder, self.person(request), "").photos
        name = request.path_params["file"]
        there = {path.name: path for path in views.pictures_in(folder)}
        return shown(there.get(name), THUMBNAIL_SIDE)

    def style_picture(self, request: Request) -> Response:
        """A reference photo of a style, reduced, by its number."""
        name, number = request.path_params["style"], request.path_params["number"]
        found = next((each for each in views.styles() if each.name == name), None)
        pictures = found.profile.reference_paths() if found and found.profile else []
        return shown(pictures[number] if number < len(pictures) else None, THUMBNAIL_SIDE)

    def picture(self, request: Request) -> Response:
        """A drawn picture: reduced, or with ``?whole`` the file itself, with all its marks."""
        kind, file = request.path_params["kind"], request.path_params["file"]
        found = views.picture_file(self.folders(request), kind, file)
        if found is not None and "whole" in request.query_params:
            return FileResponse(found, filename=found.name)
        return shown(found, PICTURE_SIDE)

    # What the buttons do.

    def new_person(self, request: Request, form: FormData) -> str:
        """Make a person's folder."""
        return views.address("people", add_person(self.folder, text(form, "name")))

    def take_photos(self, request: Request, form: FormData) -> str:
        """Keep photos and let them be looked at."""
        person = self.person(request)
        folders = StyleFolders(self.folder, person, "")
        given = [
            (file.filename or "", file.file)
            for file in form.getlist("photos")
            if isinstance(file, UploadFile) and (file.filename or file.size)
        ]
        if not given:
            raise UsageError("No photo was chosen.")
        before = {path.name for path in views.pictures_in(folders.photos)}
        try:
            with self.keeping:
                refused = uploads.keep_photos(folders.photos, given)
            self.told.setdefault(person, []).extend(refused)
        finally:  # those that were kept before a disk was full are looked at
            if {path.name for path in views.pictures_in(folders.photos)} != before:
                self.mask(folders)
        return views.address("people", person)

    def look(self, request: Request, form: FormData) -> str:
        """Look at the photos, where that was stopped or a full disk was in the way."""
        person = self.person(request)
        self.mask(StyleFolders(self.folder, person, ""))
        return views.address("people", person)

    def name_subject(self, request: Request, form: FormData) -> str:
        """Take a photo's word for who the person is, or none's, and look at the photos again."""
        person = self.person(request)
        folders = StyleFolders(self.folder, person, "")
        there = {path.name: path for path in views.pictures_in(folders.photos)}
        self.jobs.add(person, commands.mask(folders, there.get(text(form, "file"))))
        return views.address("people", person)

    def remove_photo(self, request: Request, form: FormData) -> str:
        """Remove the copy of a photo, and look at the others again."""
        person = self.person(request)
        folders = StyleFolders(self.folder, person, "")
        there = {path.name: path for path in views.pictures_in(folders.photos)}
        if (path := there.get(text(form, "file"))) is not None:
            path.unlink(missing_ok=True)
            if len(there) > 1:
                self.mask(folders)
        return views.address("people", person)

    def plan(self, request: Request, form: FormData) -> str:
        """Plan the training in a style."""
        person = self.person(request)
        style = views.known(text(form, "style"), (each.name for each in views.styles()))
        recipe = views.known(text(form, "recipe"), self.choices.recipes)
        backbone = views.known(text(form, "backbone"), self.choices.backbones)
        if style is None or recipe is None or backbone is None:
            raise UsageError("Choose a style first.")
        folders = StyleFolders(self.folder, person, style)
        words = commands.plan(folders, recipe, backbone, self.subject_of(person))
        if not any(job.state in OPEN and list(job.words) == words for job in self.jobs.of(person)):
            self.jobs.add(person, words)
        return views.address("people", person, "in", style)

    def train(self, request: Request, form: FormData) -> str:
        """Train what was planned."""
        folders = self.folders(request)
        jobs = views.of_style(self.jobs.of(folders.person), folders)
        planned = views.latest(jobs, "plan")
        if planned is None or planned.state != "done":
            raise UsageError("There is no plan yet.")
        if any(job.title == "train" and job.state in OPEN for job in jobs):
            raise UsageError("It is being trained already, from another tab perhaps.")
        words = commands.train(planned.words, previews="previews" in form, over="over" in form)
        self.jobs.add(folders.person, words)
        return views.address("people", folders.person, "in", folders.style)

    def draw(self, request: Request, form: FormData) -> str:
        """Draw portraits."""
        return self.ask(request, lambda folders: commands.generate(
            folders, text(form, "count"), text(form, "seed"), text(form, "words")
        ))  # fmt: skip

    def edit(self, request: Request, form: FormData) -> str:
        """Change words of the chosen pictures."""
        return self.ask(request, lambda folders: commands.edit(
            folders, chosen(folders, form), text(form, "old"), text(form, "new"), text(form, "add")
        ))  # fmt: skip

    def enhance(self, request: Request, form: FormData) -> str:
        """Enlarge, restore and frame the chosen pictures."""
        frame = text(form, "frame")
        allowed = (commands.AS_STYLE, commands.UNFRAMED, *rules().documents)
        if views.known(frame, allowed) is None:
            raise UsageError("Choose how to frame the pictures.")
        folders = self.folders(request)
        sheet = "sheet" in form and views.print_size(folders.style, frame) is not None
        there = self.ask(request, lambda folders: commands.enhance(
            folders, chosen(folders, form), frame, print_sheet=sheet
        ))  # fmt: skip
        if "sheet" in form and not sheet:
            told = self.told.setdefault(folders.person, [])
            told.append(
                "There will be no print sheet: of this frame no size in millimetres is known."
            )
        return there

    def ask(self, request: Request, words: Callable[[StyleFolders], list[str]]) -> str:
        """Ask for a command on a subject that is trained."""
        folders = self.folders(request)
        is_subject = is_subject_folder(folders.subject)
        if not is_subject or read_manifest(folders.subject).state != "complete":
            raise UsageError("It is not trained yet.")
        asked = words(folders)
        open_ones = [job for job in self.jobs.of(folders.person) if job.state in OPEN]
        if any(list(job.words) == asked for job in open_ones):
            raise UsageError("That is being done already, from another tab perhaps.")
        self.jobs.add(folders.person, asked)
        return views.address("people", folders.person, "in", folders.style)

    def stop(self, request: Request, form: FormData) -> str:
        """Stop a job; what it has is saved."""
        person = self.person(request)
        for job in self.jobs.of(person):
            if job.number == request.path_params["number"]:
                self.jobs.stop(job)
        return back(request, person)

    def again(self, request: Request, form: FormData) -> str:
        """Go on with a job that was stopped, cut off or failed."""
        person = self.person(request)
        for job in self.jobs.of(person):
            if job.number == request.path_params["number"]:
                self.jobs.again(job)
        return back(request, person)

    def forget_page(self, request: Request) -> Response:
        """All that is kept of a person, as ``mcap forget --dry-run`` lists it."""
        person = self.person(request)
        home = StyleFolders(self.folder, person, "").home
        words = commands.forget(home, dry_run=True)
        code, result = self.jobs.run(words)
        return self.page(
            "app_forget.html",
            person,
            person=person,
            up=views.address("people", person),
            action=views.address("people", person, "forget"),
            error=str(result.get("error", "")) if code else "",
            removed=[{**item, "count": len(item["files"])} for item in result.get("removed", ())],
            left=[*result.get("left", ()), *result.get("out_of_reach", ())],
            command=self.jobs.line(commands.forget(home, dry_run=False)),
        )

    def forget(self, request: Request, form: FormData) -> str:
        """Remove all that is kept of a person."""
        person = self.person(request)
        if any(job.state in OPEN for job in self.jobs.of(person)):
            raise UsageError("Something is being done for this person; stop it first.")
        home = StyleFolders(self.folder, person, "").home
        self.leaving.add(person)
        try:
            code, result = self.jobs.run(commands.forget(home, dry_run=False))
        finally:
            self.leaving.discard(person)
        if code:
            raise McapError(str(result.get("error", f"mcap forget ended with code {code}.")))
        self.jobs.drop(person)
        left = [sentence for sentence in result["left"] if sentence.startswith(str(home))]
        told = self.told.setdefault("", [])
        told.append(f"{person}: {'these files stay' if left else 'all was removed'}.")
        told += left
        return "/"


def text(form: FormData, name: str) -> str:
    """Return a field of a form as text; "" where it was not sent."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def chosen(folders: StyleFolders, form: FormData) -> list[Path]:
    """Return the pictures whose boxes are ticked and that are there."""
    found = []
    for value in form.getlist("picture"):
        kind, _, file = value.partition("/") if isinstance(value, str) else ("", "", "")
        if kind in ("portraits", "edits"):
            path = views.picture_file(folders, kind, file)
            found += [path] if path is not None else []
    return found


def back(request: Request, person: str) -> str:
    """Return the address of the page whose button was pressed, of this person's."""
    path = urlsplit(request.headers.get("referer", "")).path
    home = views.address("people", person)
    return path if path.startswith(f"{home}/") else home


@lru_cache(maxsize=512)
def reduced(path: Path, side: int, _changed: int) -> bytes:
    """Return a picture as a small JPEG; what was made stays until the file changes."""
    return reduced_jpeg(path, side)


def shown(path: Path | None, side: int) -> Response:
    """Return a picture, reduced; 404 where there is none, or it cannot be read."""
    if path is None:
        raise HTTPException(404)
    try:
        return Response(reduced(path, side, path.stat().st_mtime_ns), media_type="image/jpeg")
    except (InputRejectedError, OSError):
        raise HTTPException(404) from None


def doing(studio: Studio, action: Action) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that does what a button says; what is wrong with it is told there."""

    async def endpoint(request: Request) -> Response:
        try:
            size = int(request.headers.get("content-length") or 0)
            if size > uploads.LARGEST_DROP:
                async for _ in request.stream():  # a browser that is cut off tells nothing of why
                    pass
                raise UsageError(
                    f"{size / 1e9:.1f} GB were dropped at once, more than all photos of a person "
                    "have; choose the photos alone."
                )
            async with request.form(max_files=10_000, max_fields=MOST_FIELDS) as form:
                there = await run_sync(action, request, form)
        except McapError as error:
            there = tell(studio, request, str(error))
        except OSError as error:
            there = tell(studio, request, f"It could not be written: {why(error)}.")
        return RedirectResponse(there, 303)

    return endpoint


def tell(studio: Studio, request: Request, sentence: str) -> str:
    """Let a sentence be told on the page whose button was pressed; return its address."""
    person = request.path_params.get("person")
    if person is None:
        studio.told.setdefault("", []).append(sentence)
        return "/"
    studio.told.setdefault(person, []).append(sentence)
    return back(request, person)


def missing(request: Request, error: Exception) -> Response:
    """Return the page on an address at which nothing is, or a form that cannot be read."""
    code = error.status_code if isinstance(error, HTTPException) else 500
    return HTMLResponse(render_page("app_missing.html", told=[]), code)


def make_app(
    folder: Path, jobs: Jobs, choices: Choices, token: str, on_close: Callable[[], object]
) -> ASGIApp:
    """Return the application; ``jobs`` go on for as long as it runs, ``on_close`` ends them."""
    studio = Studio(folder, jobs, choices)

    async def keep_advancing() -> None:
        while True:
            await run_sync(jobs.advance_or_wait)
            await anyio.sleep(TICK_SECONDS)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_advancing)
            yield
            tasks.cancel_scope.cancel()
        await run_sync(on_close)

    def script(_: Request) -> Response:
        return FileResponse(SCRIPT, media_type="text/javascript")

    person, style = "/people/{person}", "/people/{person}/in/{style}"
    shows: dict[str, Answer] = {
        "/": studio.index,
        "/page.js": script,
        "/styles/{style}/{number:int}": studio.style_picture,
        person: studio.person_page,
        f"{person}/live": studio.live,
        f"{person}/forget": studio.forget_page,
        f"{person}/photos/{{file}}": studio.photo,
        style: studio.style_page,
        f"{style}/live": studio.live,
        f"{style}/{{kind}}/{{file:path}}": studio.picture,
    }
    does: dict[str, Action] = {
        "/people": studio.new_person,
        f"{person}/photos": studio.take_photos,
        f"{person}/photos/look": studio.look,
        f"{person}/photos/remove": studio.remove_photo,
        f"{person}/photos/subject": studio.name_subject,
        f"{person}/plan": studio.plan,
        f"{person}/forget": studio.forget,
        f"{person}/jobs/{{number:int}}/stop": studio.stop,
        f"{person}/jobs/{{number:int}}/again": studio.again,
        f"{style}/train": studio.train,
        f"{style}/generate": studio.draw,
        f"{style}/edit": studio.edit,
        f"{style}/enhance": studio.enhance,
    }
    routes = [Route(path, doing(studio, action), methods=["POST"]) for path, action in does.items()]
    routes += [Route(path, answer, methods=["GET"]) for path, answer in shows.items()]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: missing})
    return Guard(app, token)
