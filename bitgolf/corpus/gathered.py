"""A user's texts as one source; with any number of files a tenth of the text is for validation."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from bitgolf.base.errors import DataError
from bitgolf.corpus.sources import Split, TextSource, source_from
from bitgolf.corpus.texts import PART_BYTES, parts_of

PARTS = 20  # of the validation text at least, so that it is of more than one place


@dataclasses.dataclass(frozen=True)
class Gathered(TextSource):
    """One or more sources of text after each other, split by bytes.

    fraction: of the bytes that are validation. A long document is cut, so that one book alone can be split.
    """

    sources: tuple[TextSource, ...]
    fraction: float

    @property
    def name(self) -> str:
        return " and ".join(source.name for source in self.sources)

    @property
    def key(self) -> str:
        return f"gathered {self.fraction} {[source.key for source in self.sources]}"

    def notes(self) -> list[str]:
        return [note for source in self.sources for note in source.notes()]

    def documents(self) -> Iterator[bytes]:
        for source in self.sources:
            yield from source.documents()

    def split(self, documents: list[bytes], fraction: float) -> Split:
        """Documents by their hashes, as many as the fraction holds; equal ones go together."""
        total = sum(map(len, documents))
        most = max(PART_BYTES, int(total * self.fraction) // PARTS)
        parts = [part for document in documents for part in cut(document, most)]
        left, chosen, counts = total * self.fraction, set[bytes](), Counter(parts)
        for part in sorted(counts, key=lambda part: hashlib.sha256(part).digest()):
            num_bytes = counts[part] * len(part)
            if num_bytes <= left or not chosen:
                chosen.add(part)
                left -= num_bytes
        train = [part for part in parts if part not in chosen]
        if not train or not chosen:
            raise DataError(
                "too little text to keep some of it for validation",
                where=self.name,
                value=f"{total:,} bytes",
                way_out=f"give at least {4 * PART_BYTES:,} bytes of text",
            )
        rule = (
            f"documents above {2 * most:,} bytes are cut after blank lines; in the order of their SHA-256 as "
            f"many as {self.fraction:.3g} of the bytes hold are validation"
        )
        return Split(train, [part for part in parts if part in chosen], rule)


def cut(document: bytes, most: int) -> Iterable[bytes]:
    """A document, in parts of about `most` bytes where it is longer than twice that."""
    return parts_of(document, most) if len(document) > 2 * most else (document,)


def text_sources(texts: Sequence[str]) -> tuple[TextSource, ...]:
    """What was typed as sources of text. Raises DataError for shards, which are tokens already."""
    sources = [source_from(text) for text in texts]
    for text, source in zip(texts, sources):
        if not isinstance(source, TextSource):
            raise DataError(
                "these are token shards, not text",
                where=text,
                way_out="train on them with `bitgolf run RECIPE --data FOLDER`",
            )
    return tuple(source for source in sources if isinstance(source, TextSource))
