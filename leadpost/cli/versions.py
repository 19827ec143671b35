"""Which state of which row a reject is of: `leadpost_version`."""

import json
import re
from hashlib import sha256

from attrs import field, frozen

_TEXT = re.compile(r"v(\d{1,9})(e?)-([0-9a-f]{10})-([0-9a-f]{10})", re.ASCII)


@frozen
class Version:
    """
    What a row of rejects was when it was written. No spreadsheet takes it for a number.

    Attributes:
        calls: How many calls had been made for it.
        content: A digest of what it was: the activity of its entry, or what stands in its input
            where it has none.
        seal: A digest of that, its key and the outbox: so it is of no use in another one, for
            another row, or where a part of it was lost.
        sends_empty: Whether its empty cells are to go out.
    """

    calls: int
    content: str
    seal: str
    sends_empty: bool = field(default=False, eq=False)

    @classmethod
    def of(
        cls, outbox: str, key: str, calls: int, content: object, *, sends_empty: bool
    ) -> "Version":
        """
        Give the version of a row.

        Args:
            outbox: The identity of the outbox.
            key: The key of its entry.
            calls: How many calls were made for it.
            content: Its activity, or what stands in its input, as JSON.
            sends_empty: Whether its empty cells are to go out.
        """
        # Salted: results hold it too, and nobody is to find out by trying what a row said.
        digest = _digest("\0".join((outbox, json.dumps(content, sort_keys=True))))
        seal = _digest("\0".join((outbox, key, str(calls), digest)))
        return cls(calls, digest, seal, sends_empty)

    @classmethod
    def read(cls, text: str) -> "Version | None":
        """
        Read what `str` gives of one; None if it is none.

        >>> str(Version.read("v1-0123456789-abcdef0123"))
        'v1-0123456789-abcdef0123'
        """
        found = _TEXT.fullmatch(text)
        return None if found is None else cls(int(found[1]), found[3], found[4], bool(found[2]))

    def __str__(self) -> str:
        return f"v{self.calls}{'e' if self.sends_empty else ''}-{self.content}-{self.seal}"

    def is_of(self, outbox: str, key: str) -> bool:
        """Tell whether it is of this row of this outbox."""
        return self.seal == _digest("\0".join((outbox, key, str(self.calls), self.content)))


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
