"""C2PA manifests: signed into the pictures that mcap writes, with c2pa-python.

A manifest says that the picture was made ("c2pa.created") or made from another one ("c2pa.opened",
"c2pa.edited"), by which kind of source (the IPTC's DigitalSourceType) and by which version of mcap.
The picture that it was made from is an ingredient, and what manifests that one had are kept in it.
No name, no path, no thumbnail and no time is in it. Source: C2PA Technical Specification 2.4.

The same picture gets the same bytes, as long as the certificate signs the same way each time:
`mcap.marks.salts`.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast

from PIL import Image

import mcap
from mcap.errors import McapError, UsageError
from mcap.images.marking import Statement
from mcap.images.provenance import TRAINED_ALGORITHMIC_MEDIA
from mcap.marks.salts import settle
from mcap.runtime.files import open_to_read, sha256_of

if TYPE_CHECKING:
    from mcap.marks.certificate import Credential

SETTINGS: dict[str, dict[str, Any]] = {
    "verify": {
        # A file may name an address to have its manifest from; nobody shall be told who reads it.
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
        "verify_after_sign": False,
    },
    "builder": {"thumbnail": {"enabled": False}},
}
"""Of c2pa-python's contexts."""

MIME = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
"""Suffix of what mcap writes -> media type."""

BEGINNINGS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8": "image/jpeg",
    b"GIF8": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
"""First bytes of a file -> media type."""

NO_MANIFESTS = "image/bmp"
"""Media type of a format in which C2PA keeps no manifest."""

PARENT = "parent"  # by which the actions name the ingredient, inside c2pa-python alone


State = Literal["trusted", "valid", "untrusted", "broken", "absent", "unknown"]
"""trusted: unchanged since somebody signed it for whom a trusted certificate vouches; valid: the
same, whether trusted or not was not asked; untrusted: nobody vouches for who signed it; broken:
changed since, or damaged; absent: there is none; unknown: c2pa-python is not installed."""

T = TypeVar("T")

UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True)
class FoundManifest:
    """The C2PA manifest of a file, in short, and whether it holds."""

    state: State
    signer: str | None = None
    """Name in the certificate, and its organisation."""
    generator: str | None = None
    """The program that made the claim, with its version."""
    actions: tuple[str, ...] = ()
    source_type: str | None = None
    """The kind of source that its last action declares."""
    manifests: int = 0
    """Number of manifests: the file's own, and those of what it was made from."""
    problems: tuple[str, ...] = ()
    """C2PA's codes of what is wrong."""


class Stream:
    """A file, with what c2pa-python asks of one, that remembers why it could not be read or
    written: C2PA's library tells only that."""

    def __init__(self, file: BinaryIO) -> None:
        self.file: Any = file
        self.failure: OSError | None = None

    def read(self, size: int) -> bytes:
        return self.tried(self.file.read, size)

    def readinto(self, buffer: Any) -> int:
        return self.tried(self.file.readinto, buffer)

    def write(self, data: bytes) -> int:
        return self.tried(self.file.write, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.tried(self.file.seek, offset, whence)

    def tell(self) -> int:
        return self.tried(self.file.tell)

    def flush(self) -> None:
        return self.tried(self.file.flush)

    def tried(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what the file's method does."""
        try:
            return call(*arguments)
        except OSError as error:
            self.failure = error
            raise


@dataclass(frozen=True)
class ManifestSigner:
    """`mcap.images.marking.Signer` with a certificate."""

    credential: Credential

    def sign(self, picture: BinaryIO, signed: BinaryIO, suffix: str, statement: Statement) -> None:
        """Write a PNG, JPEG or WebP with a manifest in it, as `mcap.images.marking.Signer` says.

        Raises `McapError` where the certificate is none that C2PA takes, and OSError where a file
        cannot be read or written.
        """
        from c2pa import Builder, C2paError, C2paSigningAlg, Context
        from c2pa import Signer as NativeSigner

        given: list[tuple[bytes, bytes]] = []

        def callback(data: bytes) -> bytes:
            given.append((bytes(data), self.credential.sign(bytes(data))))
            return given[-1][1]

        algorithm = C2paSigningAlg[self.credential.algorithm.upper()]
        streams = Stream(picture), Stream(signed)
        picture.seek(0)
        digest = hashlib.file_digest(cast(Any, picture), "sha256").hexdigest()
        picture.seek(0)
        try:
            context = Context.from_dict(SETTINGS)
            with Builder(json.dumps(definition(digest, statement)), context=context) as builder:
                if statement.parent is not None:
                    add_parent(builder, statement.parent)
                signer = NativeSigner.from_callback(
                    callback, algorithm, self.credential.chain, None
                )
                manifest = bytes(builder.sign(signer, MIME[suffix], *streams))
        except C2paError as error:
            for stream in streams:
                if stream.failure is not None:
                    raise stream.failure from error
            raise McapError(
                f"C2PA's library does not sign a picture ({error}); give another [marks] "
                "certificate, or set [marks] c2pa = false."
            ) from error
        if len(given) != 1:
            return
        if isinstance(signed, io.BytesIO):
            data = bytearray(signed.getbuffer())
            settle(data, manifest, given[0], self.credential.sign)
            signed.seek(0)
            signed.write(data)
        else:  # mapped and not read: a PNG may have a gigabyte
            signed.flush()
            with mmap.mmap(signed.fileno(), 0) as mapped:
                settle(mapped, manifest, given[0], self.credential.sign)

    def require_usable(self, certificate: Path) -> None:
        """Raise `UsageError` where C2PA takes no signature by the certificate in that file."""
        plain, signed = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (8, 8)).save(plain, "PNG")
        try:
            self.sign(plain, signed, ".png", Statement(TRAINED_ALGORITHMIC_MEDIA))
            problems = manifest_in(signed).problems
        except McapError as error:
            problems = (str(error.__cause__ or error),)
        if problems not in ((), (UNTRUSTED,)):
            raise UsageError(
                f"[marks] certificate = {certificate}: C2PA takes no signature by it "
                f"({', '.join(problems)}). It asks for a certificate that is valid today, for "
                "digital signatures and e-mail protection, and issued by another one."
            )

    def declared(self, path: Path) -> str | None:
        """Return the kind of source that a file's own manifest declares, if it is unbroken."""
        found = read_manifest(path)
        return None if found.state == "broken" else found.source_type


def read_manifest(path: Path, anchors: str | None = None) -> FoundManifest:
    """Return what C2PA says of a file; nothing is fetched from anywhere.

    ``anchors`` are the certificates, PEM, of those who are trusted.
    """
    with open_to_read(path) as file:
        return manifest_in(file, anchors)


def manifest_in(file: BinaryIO, anchors: str | None = None) -> FoundManifest:
    """Return the same of an open file."""
    try:
        from c2pa import C2paError, Context, Reader
    except ImportError:
        return FoundManifest("unknown", problems=("pip install 'mcap[c2pa]'",))
    settings: dict[str, Any] = {"verify": {**SETTINGS["verify"], "verify_trust": True}}
    if anchors is not None:
        settings["trust"] = {"user_anchors": anchors}
    try:
        with Reader(media_type(file), file, context=Context.from_dict(settings)) as reader:
            store = json.loads(reader.json())
    except (C2paError.ManifestNotFound, C2paError.NotSupported):
        return FoundManifest("absent")
    except (C2paError, ValueError) as error:
        return FoundManifest("broken", problems=(str(error),))
    return described(store)


def described(store: Mapping[str, Any]) -> FoundManifest:
    """Return a store, as c2pa-python's Reader has it in JSON, in short."""
    problems = tuple(dict.fromkeys(item["code"] for item in store.get("validation_status", ())))
    state: State = "broken"
    if store.get("validation_state") == "Trusted":
        state = "trusted"
    elif store.get("validation_state") == "Valid":
        state = "untrusted" if UNTRUSTED in problems else "valid"
    newest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = newest.get("signature_info") or {}
    names = [signature[key] for key in ("common_name", "issuer") if signature.get(key)]
    programs = newest.get("claim_generator_info") or [{}]
    actions = [
        action
        for assertion in newest.get("assertions", ())
        if assertion.get("label", "").startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", ())
    ]
    kinds = [action["digitalSourceType"] for action in actions if "digitalSourceType" in action]
    program = f"{programs[0].get('name', '')} {programs[0].get('version', '')}".strip()
    return FoundManifest(
        state,
        signer=", ".join(names) or None,
        generator=program or newest.get("claim_generator"),
        actions=tuple(str(action.get("action")) for action in actions),
        source_type=str(kinds[-1]) if kinds else None,
        manifests=len(store.get("manifests", {})),
        problems=problems,
    )


def add_parent(builder: Any, path: Path) -> None:
    """Add the file that a picture was made from, with its manifests, if it has some.

    Of a file whose manifests C2PA's library does not take, such as two stores in one, the hash
    alone is told.
    """
    from c2pa import C2paError

    told = {
        "title": "the picture before",
        "relationship": "parentOf",
        "label": PARENT,
        "instance_id": f"sha256:{sha256_of(path)}",
    }
    with open_to_read(path) as file:
        try:
            builder.add_ingredient(json.dumps(told), media_type(file), file)
        except C2paError:
            file.seek(0)
            builder.add_ingredient(json.dumps(told), NO_MANIFESTS, file)


def definition(digest: str, statement: Statement) -> dict[str, Any]:
    """Return the manifest of the picture with that sha256, for c2pa-python's Builder.

    What C2PA wants to be unique is a hash of what is signed.
    """
    program = {"name": "mcap", "version": mcap.__version__}
    made = {"digitalSourceType": statement.source_type, "softwareAgent": program}
    actions: list[dict[str, Any]]
    unique = hashlib.sha256(f"{mcap.__version__} {statement.source_type} {digest}".encode())
    if statement.parent is None:
        actions = [{"action": "c2pa.created", **made}]
    else:
        unique.update(sha256_of(statement.parent).encode())
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [PARENT]}}
        actions = [opened, {"action": "c2pa.edited", **made}]
    number = uuid.UUID(bytes=unique.digest()[:16], version=4)  # the form that C2PA asks for
    return {
        "label": f"urn:c2pa:{number}",
        "instance_id": f"xmp:iid:{number}",
        "claim_generator_info": [program],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def media_type(file: BinaryIO) -> str:
    """Return the media type of the picture in an open file, by its first bytes.

    `NO_MANIFESTS` for what cannot be told.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    if head[4:8] == b"ftyp":  # ISO 14496-12
        return "image/avif" if head[8:12] in (b"avif", b"avis") else "image/heic"
    if head[:4] == b"RIFF":
        return "image/webp"
    return next(
        (kind for begin, kind in BEGINNINGS.items() if head.startswith(begin)), NO_MANIFESTS
    )
