"""Finding the rows of a file among those of earlier runs, and what to do with each."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

from leadpost.cli.files.ledger import Kind, Known, Ledger, parts_of
from leadpost.cli.files.plan import SENT, Plan, Planned, Verdict
from leadpost.cli.files.reading import Fault

_VERDICTS: dict[Kind, Verdict] = {
    "posted": "posted",
    "waiting": "waiting",
    "refused": "again",
    "failed": "failed",
    "invalid": "invalid",
}
"""What to do with a row that is known. Of identical ones, the first kind is found first."""
_KINDS = tuple(_VERDICTS)
_EXAMPLES = 2000
"""The most edits that are looked at."""


class Matching:
    """
    Finds rows in the ledger, and decides what to do with them.

    Args:
        plan: The rows, and what is found.
        ledger: What is known; None to look at the file alone.
        batch: The name of the file's batch.
        are_rejects: Whether the file is a rejects file: it has only some of the rows, so that
            those that are not in it are not gone.
    """

    def __init__(self, plan: Plan, ledger: Ledger | None, batch: str, *, are_rejects: bool) -> None:
        self.plan = plan
        self._ledger = ledger
        self._batch = batch
        self._are_rejects = are_rejects
        self._taken = set[int]()  # the numbers of rows that are found
        self._top = Counter[str]()  # the highest number of rows of a digest
        self._posted = defaultdict[str, set[int]](set)  # posted in other batches, by their names

    async def match_keys(self) -> None:
        """Find the rows of a rejects file by their keys."""
        if (ledger := self._ledger) is None:
            return
        for part in parts_of([row for row in self.plan.rows if row.letters]):
            keyed = await ledger.of_letters(self._batch, [row.letters for row in part])
            found = await ledger.of_digests(self._batch, {row.present for row in part})
            posted = {known.present for known in found if known.is_own and known.kind == "posted"}
            for row in part:
                if known := keyed.get(row.letters):
                    self._match_key(row, known, posted)

    def _match_key(self, row: Planned, known: Known, posted: Collection[str | None]) -> None:
        is_posted, is_gone = known.kind == "posted", known.kind == "withdrawn"
        if is_posted and (row.digest == known.origin or known.present in {row.digest, row.present}):
            row.verdict = "posted"
        elif row.faults:
            row.verdict = "invalid"
            self.plan.newly_invalid += row.digest != known.origin
        elif not is_posted and not is_gone and row.present == known.present:
            row.verdict = "waiting" if known.kind == "waiting" else "again"
        elif row.present in posted:
            return  # it was fixed in the input too, and posted from there
        elif is_posted or is_gone:
            row.verdict = "edit"
        else:
            row.verdict = "corrected"
        if row.verdict != "edit" and not is_gone:
            row.known = known.id
            self._taken.add(known.id)

    async def match(self, *, elsewhere: bool = False) -> None:
        """
        Find rows by what they were and by what they are now.

        Args:
            elsewhere: Whether to look into other batches too.
        """
        if (ledger := self._ledger) is None:
            return
        rows = [
            row
            for row in self.plan.rows
            if (row.verdict is None and row.known is None) or row.verdict == "corrected"
        ]
        for part in parts_of(rows):
            digests = {digest for row in part for digest in (row.digest, row.present)}
            found = await ledger.of_digests(self._batch, digests)
            found = [known for known in found if known.kind != "withdrawn"]
            self._match(part, [known for known in found if known.is_own])
            if elsewhere:
                self._look_elsewhere(part, [known for known in found if not known.is_own])
            await asyncio.sleep(0)  # a signal is heard between two parts

    def _match(self, part: Sequence[Planned], found: Iterable[Known]) -> None:
        """Give each row without one the best of what was found."""
        ranked = sorted(found, key=lambda known: (-_KINDS.index(known.kind), -known.id))
        for of_known, of_row in (("origin", "digest"), ("present", "present")):
            digest_of = attrgetter(of_row)
            left = defaultdict[str, list[Known]](list)
            for known in ranked:
                left[getattr(known, of_known)].append(known)
            for row in part:
                candidates = left.get(digest_of(row), [])
                while candidates and row.known is None:
                    known = candidates.pop()
                    if known.id not in self._taken:
                        self._take(row, known)
        unknown = {row.digest for row in part if row.known is None}
        for known in ranked:
            if known.origin in unknown:
                self._top[known.origin] = max(self._top[known.origin], known.number or 0)

    def _take(self, row: Planned, known: Known) -> None:
        self._taken.add(known.id)
        row.known = known.id
        verdict = _VERDICTS[known.kind]
        if verdict == "failed" and self._are_rejects:
            verdict = "again"
        if verdict != "again":  # those are looked up and checked like new ones
            row.verdict = verdict

    def _look_elsewhere(self, part: Sequence[Planned], found: Iterable[Known]) -> None:
        """Doubt what was posted in other batches, and take from them what was not."""
        unsent, posted = defaultdict[str | None, list[int]](list), dict[str | None, Known]()
        for known in found:
            if known.kind in {"posted", "failed"}:
                posted[known.present] = known
            elif known.id not in self._taken and not known.has_other_keys:
                unsent[known.present].append(known.id)
        for row in part:
            if row.faults or row.verdict not in {None, "corrected"}:
                continue
            if row.known is None and unsent[row.present]:
                id_ = unsent[row.present].pop()
                self._taken.add(id_)
                self.plan.moved.append(id_)
            elif other := posted.get(row.digest) or posted.get(row.present):
                row.verdict = "elsewhere"
                self.plan.batches[other.batch] += 1
                self.plan.other_keys += other.has_other_keys
                if not other.has_other_keys:
                    self._posted[other.batch].add(other.id)

    @property
    def is_known_elsewhere(self) -> bool:
        """Whether a row was found in another batch."""
        return bool(self.plan.moved or self.plan.batches)

    async def judge(self, first: int | None) -> None:
        """
        Decide what to do with the rows that are left.

        Args:
            first: How many rows are sent at most.
        """
        plan, numbers = self.plan, Counter[str]()
        gone = await self._gone()
        for row in plan.rows:
            if row.known is None:
                numbers[row.digest] += 1
                row.number = self._top[row.digest] + numbers[row.digest]
            if row.verdict is not None:
                continue
            if row.faults:
                row.verdict = "invalid"
                plan.newly_invalid += row.known is None
            elif row.known is not None:
                row.verdict = "again"
            elif row.lead in gone and not self._are_rejects:
                row.verdict = "edit"
                if gone[row.lead] and len(plan.edits) < _EXAMPLES:
                    plan.edits[row] = gone[row.lead].pop(0)
            else:
                row.verdict = "new"
        sent = [row for row in plan.rows if row.verdict in SENT]
        for row in sent[first:] if first is not None else ():
            if row.verdict == "waiting" and row.known is not None:
                plan.postponed.append(row.known)
                row.known = None
            row.verdict = "later"

    async def recall(self) -> None:
        """Find rows that an earlier run found to be invalid when it asked the account."""
        if (ledger := self._ledger) is None:
            return
        for part in parts_of([row for row in self.plan.rows if row.is_open]):
            digests = {row.refused_digest: row for row in part}
            for known in await ledger.of_digests(self._batch, digests):
                if known.is_own and known.kind == "invalid" and known.origin in digests:
                    fault = Fault("row", "", "was found to be invalid", "leadpost post says why")
                    digests[known.origin].refuse([fault])

    async def _gone(self) -> dict[str, list[int]]:
        """Return the posted rows that are gone, by leads of new rows; record those not posted."""
        posted: list[tuple[int, str]] = []
        if (ledger := self._ledger) is None:
            return {}
        async for id_, lead, kind in ledger.of_batch(self._batch):
            if id_ in self._taken or kind == "withdrawn":
                continue
            if kind == "posted":
                posted.append((id_, lead))
            elif not self._are_rejects:
                self.plan.gone[id_] = kind
        for batch, found in self._posted.items():
            missing = [
                (id_, lead)
                async for id_, lead, kind in ledger.of_batch(batch)
                if kind == "posted" and id_ not in found
            ]
            # With most rows of that batch, it is the same file under another name.
            posted += missing if len(missing) < len(found) else []
        gone: dict[str, list[int]] = {}
        if not posted:
            return gone
        leads = {row.lead for row in self.plan.rows if row.is_open and row.known is None}
        for id_, lead in posted:
            if lead in leads:
                gone.setdefault(lead, []).append(id_)
        return gone
