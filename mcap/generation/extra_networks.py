"""Networks beside the subject: LoRA and embedding files of other programs, and further subjects,
whose tokens are {id2} and {style2}, {id3} and {style3} in prompts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import UsageError
from mcap.runtime.files import sha256_of
from mcap.style.prompts import in_words
from mcap.subjects.embedding_file import Embedding, bundled_embeddings, read_embedding_file
from mcap.subjects.export import file_name, token_stems
from mcap.subjects.lora_file import Lora

if TYPE_CHECKING:
    from mcap.contracts import SteersPipeline
    from mcap.subjects.subject import Subject

LARGEST_WEIGHT = 10.0


@dataclass(frozen=True)
class Companion:
    """Another subject beside the first; ``number`` counts from 2."""

    subject: Subject
    weight: float
    number: int

    @property
    def tokens(self) -> dict[str, str]:
        """The subject's own tokens -> their names here: ``<mcap-id>``: ``<mcap-id-2>``."""
        return {
            record.token: f"{record.token[:-1]}-{self.number}>"
            for record in self.subject.manifest.tokens
        }

    @property
    def slots(self) -> dict[str, str]:
        """``{id2}`` -> ``<mcap-id-2>``, or the word of the vocabulary that stands for it."""
        known = {**self.tokens, **self.subject.manifest.words}
        return {
            f"{{{own.strip('<>').removeprefix('mcap-')}{self.number}}}": token
            for own, token in known.items()
        }


@dataclass(frozen=True)
class ExtraNetworks:
    """Networks that are loaded beside the first subject; by default none."""

    companions: tuple[Companion, ...] = ()
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """Token -> the word that stands for it: those of the first subject; see `beside`."""

    def beside(self, subject: Subject) -> ExtraNetworks:
        """Return these as the first subject's company: prompts are expanded with its words.

        `UsageError` for a companion that has weights in the backbone's place, or that an identity
        encoder draws: of either a picture can be drawn with one alone.
        """
        for item in self.companions:
            if item.subject.encoded is not None:
                raise UsageError(
                    f"--with {item.subject.path}: is an image prompt of the identity encoder "
                    f"'{item.subject.manifest.encoder}', which holds for the whole picture, and "
                    "cannot stand beside another subject; name it first, or train it with a recipe "
                    "that learns a word."
                )
            if item.subject.has_weights:
                raise UsageError(
                    f"--with {item.subject.path}: was trained with the recipe "
                    f"'{item.subject.manifest.recipe.get('name')}', which changes the model's own "
                    "weights, and cannot stand beside another subject; name it first, or train it "
                    "with a recipe that makes a LoRA."
                )
        return replace(self, words=subject.manifest.words)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens that `load_into` adds."""
        return (
            *(token for companion in self.companions for token in companion.tokens.values()),
            *(token for embedding in self.embeddings for token in embedding.tokens),
        )

    def fill(self, text: str) -> str:
        """Fill in ``{id2}`` and ``{style2}``, the tokens of the second subject, and so on.

        `UsageError` where there is no such subject.
        """
        known: dict[str, str] = {}
        for companion in self.companions:
            known |= companion.slots

        def token(match: re.Match[str]) -> str:
            if match[0] not in known:
                there = f"there are {', '.join(known)}" if known else "none is given"
                raise UsageError(
                    f"--prompt '{text}': {match[0]} belongs to no subject; further subjects are "
                    f"given with --with ({there})."
                )
            return known[match[0]]

        return re.sub(r"\{(?:id|style)\d+\}", token, text)

    def expand(self, prompt: str) -> str:
        """Return the prompt as text encoders read it: the subject's words in the place of tokens
        that it did not learn, an embedding's tokens, one a vector, in the place of its word."""
        prompt = in_words(prompt, self.words)
        for embedding in self.embeddings:
            prompt = embedding.pattern.sub(" ".join(embedding.tokens), prompt)
        return prompt

    def require_use(self, prompts: Iterable[str], subject: Subject) -> None:
        """`UsageError` for an embedding whose word is in no prompt, and so would do nothing, or is
        a token of ``subject``, which it would take the place of."""
        text = "\n".join(prompts)
        own = {record.token.strip("<>") for record in subject.manifest.tokens}
        for embedding in self.embeddings:
            if embedding.word.lower() in own:
                raise UsageError(
                    f"--embedding {embedding.path}: its word '{embedding.word}' is a token of the "
                    "subject; rename the file, or give the subject that it is from with --with."
                )
            if not embedding.bundled and not embedding.pattern.search(text):
                raise UsageError(
                    f"--embedding {embedding.path}: its word '{embedding.word}' is in no prompt, "
                    "so that it would change nothing; write it into --prompt, or into --negative "
                    "where it stands for what must not be there."
                )

    def record(self) -> dict[str, Any]:
        """Return their part of a picture's record: names and hashes, no paths; {} for none."""
        found = {
            "with": [
                {"name": item.subject.name, "sha256": item.subject.sha256, "weight": item.weight}
                for item in self.companions
            ],
            "loras": [
                {"name": item.name, "sha256": item.sha256, "weight": item.weight}
                for item in self.loras
            ],
            "embeddings": [
                {"word": item.word, "sha256": item.sha256, "vectors": len(item.tokens)}
                for item in self.embeddings
            ],
        }
        return {key: entries for key, entries in found.items() if entries}

    def other_programs(self, subject: Subject, adapter_scale: float = 1.0) -> dict[str, Any]:
        """Return what `mcap.subjects.export` calls the subjects' files by default.

        ``words``: token -> its word, and ``loras``, as a record has them. A subject whose name has
        no Latin letter is exported under a name that is not known here, and is left out.
        """
        words: dict[str, str] = {}
        loras: list[dict[str, Any]] = []
        renamed = {record.token: record.token for record in subject.manifest.tokens}
        everybody = [(subject, adapter_scale, renamed)]
        everybody += [(item.subject, item.weight, item.tokens) for item in self.companions]
        for person, weight, tokens in everybody:
            try:
                name = file_name(person.name)
            except UsageError:
                continue
            words |= {tokens[own]: stem for own, stem in token_stems(person, name).items()}
            if person is subject:
                words |= subject.manifest.words
            if person.adapter and weight:
                loras.append({"name": name, "weight": weight})
        return {"words": words, "loras": loras}

    def load_into(
        self,
        pipeline: Any,
        subject: Subject,
        adapter_scale: float = 1.0,
        token_scale: float = 1.0,
        encoder: SteersPipeline | None = None,
    ) -> None:
        """Put ``subject`` and all of these into a pipeline, each LoRA at its strength.

        ``encoder`` is the subject's own, where one draws it; ``adapter_scale`` is then the strength
        of its image prompt. Where one of them is refused the pipeline is left as it was.
        """
        from mcap.runtime.randomness import preserve_rng_state

        weights: dict[str, float] = {}
        try:
            # The subject's tokens come last and so have the highest numbers: the pooled vector of
            # a subject of mcap 0.1 on SDXL is taken at the highest of a prompt.
            subject.load_weights_into(pipeline, adapter_scale)
            if subject.encoded is not None:
                if encoder is None:
                    raise UsageError(
                        f"{subject.path}: is drawn by the identity encoder "
                        f"'{subject.manifest.encoder}', and none is given "
                        "(GenerationModels.encoder)."
                    )
                subject.steer(pipeline, encoder, adapter_scale)
            with preserve_rng_state(pipeline.device):
                for number, lora in enumerate(self.loras, start=1):
                    lora.load_into(pipeline, f"lora-{number}")
                    weights[f"lora-{number}"] = lora.weight
                for embedding in self.embeddings:
                    embedding.load_into(pipeline)
            for item in self.companions:
                name = f"mcap-{item.number}"
                item.subject.load_into(
                    pipeline, item.weight, token_scale, adapter_name=name, rename=item.tokens
                )
                if item.subject.adapter and item.weight:
                    weights[name] = item.weight
            subject.load_words_into(pipeline, adapter_scale, token_scale)
            if subject.adapter and adapter_scale:
                weights["mcap"] = adapter_scale
            if weights and (self.companions or self.loras):
                # The subject's first: sums of floating-point numbers depend on their order.
                names = sorted(weights, key=lambda name: name != "mcap")
                pipeline.set_adapters(names, [weights[name] for name in names])
        except BaseException:
            self.unload_from(pipeline, subject)
            raise

    def unload_from(self, pipeline: Any, subject: Subject) -> None:
        """Take out again what `load_into` put in."""
        from mcap.diffusion.pipeline_tokens import unload

        own = [record.token for record in subject.manifest.tokens]
        unload(pipeline, [*own, *self.tokens])


def read_extra_networks(
    companions: Sequence[str] = (), loras: Sequence[str] = (), embeddings: Sequence[str] = ()
) -> ExtraNetworks:
    """Read networks as the command line gives them: ``PATH`` or ``PATH:WEIGHT``, embeddings
    without a weight.

    Raises `UsageError` for what is not there or of another kind, and what
    `mcap.subjects.subject.read_subject` raises.
    """
    from mcap.subjects.subject import read_subject

    beside = []
    for number, text in enumerate(companions, start=2):
        path, weight = weighted("--with", text)
        beside.append(Companion(read_subject(path), weight, number))
    files = []
    for text in loras:
        path, weight = weighted("--lora", text)
        if not path.is_file():
            raise UsageError(f"--lora {path}: there is no such file.")
        files.append(Lora(path, weight, sha256_of(path)))
    words: dict[str, Embedding] = {}
    for number, text in enumerate(embeddings, start=1):
        found = read_embedding_file(Path(text).expanduser(), number)
        other = words.setdefault(found.word.lower(), found)
        if other is not found:
            raise UsageError(
                f"--embedding {found.path}: its word '{found.word}' is that of {other.path} too; "
                "rename one of the files."
            )
    for lora in files:
        for found in bundled_embeddings(lora.path, len(words) + 1):
            words.setdefault(found.word.lower(), found)  # one that was given goes before
    return ExtraNetworks(tuple(beside), tuple(files), tuple(words.values()))


def weighted(flag: str, text: str) -> tuple[Path, float]:
    """Split ``PATH:WEIGHT``; without a weight, as in ``C:\\file``, it is 1."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text).expanduser(), 1.0
    try:
        value = float(weight)
    except ValueError:
        return Path(text).expanduser(), 1.0
    if not math.isfinite(value) or abs(value) > LARGEST_WEIGHT:
        raise UsageError(
            f"{flag} {text}: the weight must lie between -{LARGEST_WEIGHT:g} and "
            f"{LARGEST_WEIGHT:g}."
        )
    return Path(path).expanduser(), value
