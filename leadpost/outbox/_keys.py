"""Which keys an account's entries are posted with."""

from __future__ import annotations

from leadpost._account import Account
from leadpost._poster import AsyncActivityPoster
from leadpost.errors import OutboxError
from leadpost.outbox._new_entries import id_of
from leadpost.outbox.database import Store, _edits
from leadpost.outbox.database._sql import Transaction


class Keys:
    """
    The keys of an outbox's account, and those that its entries in the database belong to.

    Only fingerprints are kept and stored. Whoever puts or posts first with known keys registers
    them. They are read again before anything is refused: others may have adopted the entries.

    Args:
        account: The account, or its id: then its keys are unknown until there is a poster.
    """

    def __init__(self, account: Account | str) -> None:
        self.account = id_of(account)
        self._own = account.fingerprint if isinstance(account, Account) else None
        self._stored: str | None = None

    async def check(self, store: Store) -> None:
        """Register the account's keys; raise OutboxError if its entries belong to other ones."""
        if self._own is not None and self._stored != self._own:
            self._stored = await store.write(_edits.register, self._own)
            self._compare()

    def check_within(self, transaction: Transaction) -> None:
        """
        As `check`, but in the caller's transaction, which it only reads.

        Whoever puts in the same transaction must not wait for others, nor others for it.
        """
        if self._own is not None and self._stored != self._own:
            self._stored = _edits.fingerprint_of(transaction)
            self._compare()

    def _compare(self) -> None:
        if self._stored not in {None, self._own}:
            raise OutboxError(
                f"the entries of {self.account} belong to other keys. If its keys were changed,"
                f" run: leadpost outbox adopt {self._stored}"
            )

    async def check_poster(self, poster: AsyncActivityPoster, store: Store) -> None:
        """Raise ValueError for a poster of another account, or of other keys; else as `check`."""
        if poster.account.id != self.account:
            raise ValueError(
                f"the outbox belongs to {self.account}, the poster to {poster.account.id}; pass the"
                " same Account to both"
            )
        if self._own not in {None, poster.account.fingerprint}:
            raise ValueError(
                f"the poster and the outbox of {self.account} have different keys; pass the same"
                " Account to both"
            )
        self._own = poster.account.fingerprint
        await self.check(store)

    async def adopt(self, store: Store, previous: str) -> int:
        """Transfer entries to this account's keys; see `Outbox.adopt`."""
        self._stored = None  # it is read again
        return await store.write_many(_edits.adopt, self._own, previous)
