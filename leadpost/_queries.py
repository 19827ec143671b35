"""`Queries`: the methods of the poster that change nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, count, repeat
from typing import Literal, TypeVar

from attrs import evolve

from leadpost._account import Account
from leadpost._answers import ActivityType, LeadActivity, QueueMetrics, RequestStatus, User
from leadpost._availability import queries_fail
from leadpost._batch import Source, numbered
from leadpost._call import Sender
from leadpost._endpoints import async_api, sync_api
from leadpost._endpoints.call import Call
from leadpost._findings import Checked, TypeCheck, invalid
from leadpost._models import Activity
from leadpost._outcomes import StatusTimeout
from leadpost.errors import (
    InvalidActivity,
    LeadpostError,
    Rejected,
    Unauthorized,
    UnexpectedAnswer,
)

T = TypeVar("T")

_log = logging.getLogger("leadpost")
_POLL = (1.0, 2.0, 4.0, 8.0, 15.0)


class Queries:
    """
    Queries about an account, its leads and its activities. Every call takes a token of the bucket.

    Every method may raise a `LeadpostError`: `UnexpectedAnswer` if the answer cannot be read;
    `ConfigurationError` if it calls the synchronous API, and the account's `sync_host` is missing.
    """

    account: Account
    _sender: Sender

    async def _ask(self, call: Call[T]) -> T:
        return await self._sender.send(call)

    async def status(self, request_id: str) -> RequestStatus:
        """
        Return the status of a request, from the Status API.

        If the first path does not know the request, a second call tries the other: a RequestID
        does not show which endpoint accepted it.

        Args:
            request_id: The RequestID that `post` returned.
        """
        status = partial(
            async_api.status, request_id, failure_is_final=self.account.failure_is_final
        )
        try:
            return await self._ask(status())
        except (Rejected, UnexpectedAnswer) as error:
            # It may be from a post on a `Lead`, which the other path knows, or this one too.
            if isinstance(error, Unauthorized):
                raise
            with suppress(Rejected, UnexpectedAnswer):
                return await self._ask(status(path="createcustom_status_path"))
            raise

    async def wait(self, request_id: str, timeout: float | None = 600.0) -> RequestStatus:  # noqa: ASYNC109  # promised name
        """
        Poll the Status API until the status is final: after 1, 2, 4, 8 s, then every 15 s.

        Args:
            request_id: The RequestID that `post` returned.
            timeout: Seconds to wait at most; None for no limit.

        Returns:
            The final status, whether `succeeded` or `failed`.

        Raises:
            StatusTimeout: it was not final in time; `last` is the last status seen.
        """
        last: RequestStatus | None = None
        pauses = chain(_POLL, repeat(_POLL[-1]))
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while True:
                    last = await self.status(request_id)
                    if last.is_final:
                        return last
                    await asyncio.sleep(next(pauses))
        except TimeoutError:
            if not limit.expired():
                raise
        seen = last.status if last else "none"
        raise StatusTimeout(f"not final after {timeout:g} s, last status: {seen}", last=last)

    async def metrics(self, endpoint: Literal["create", "createcustom"] = "create") -> QueueMetrics:
        """
        Return the length and delay of LeadSquared's queue, from the Metrics API.

        Args:
            endpoint: `create`, or `createcustom` for the queue of posts on a `Lead`.
        """
        path = "metrics_path" if endpoint == "create" else "createcustom_metrics_path"
        return await self._ask(async_api.metrics(path))

    async def activity_types(self) -> list[ActivityType]:
        """List the activity types, without their fields, from the synchronous API."""
        return await self._ask(sync_api.activity_types())

    async def activity_type(self, code: int, *, options: bool = False) -> ActivityType:
        """
        Return one activity type with its fields, from the synchronous API.

        Args:
            code: Its code, as in `Activity.activity_event`.
            options: Whether to read the options of its dropdowns too, with a call for each. If one
                fails, that is logged, and the options that are missing stay None.
        """
        found = await self._ask(sync_api.activity_type(code))
        fields = list(found.fields)
        try:
            for place, field in enumerate(fields):
                if options and field.is_dropdown:
                    call = sync_api.dropdown_options(code, field.schema_name)
                    known = await self._ask(call)
                    fields[place] = evolve(field, options=known)
        except LeadpostError as error:
            _log.warning("no options of activity type %d: %s", code, type(error).__name__)
        return evolve(found, fields=tuple(fields))

    async def check(self, activities: Source, *, options: bool = False) -> AsyncGenerator[Checked]:
        """
        Check activities against the account's definitions of their types, without posting them.

        Each activity type is read once, with its first activity.

        Args:
            activities: As for `AsyncActivityPoster.post_stream`; drawn one by one.
            options: Whether to check the values of dropdowns too, with a call for each dropdown.

        Yields:
            One `Checked` for each activity, in the order of the input. If a definition cannot be
            read, a finding says that this part was not checked. After three in a row, no others
            are asked for.
        """
        checks: dict[int, TypeCheck] = {}
        async with aclosing(numbered(activities)) as items:
            async for index, item in items:
                try:
                    activity = item if isinstance(item, Activity) else Activity.from_payload(item)
                except InvalidActivity as error:
                    yield Checked(index, item, invalid(error))
                    continue
                check = await self._type_check(checks, activity.activity_event, options=options)
                found = check.findings(activity.activity_note, activity.fields)
                yield Checked(index, item, found)

    async def _type_check(
        self, checks: dict[int, TypeCheck], code: int, *, options: bool
    ) -> TypeCheck:
        """Return the check of a type, which is read with its first activity."""
        if code not in checks:
            read = [check.definition for check in checks.values()]
            try:
                fails = queries_fail(read)
                found = read[-1] if fails else await self.activity_type(code, options=options)
            except LeadpostError as error:
                found = error
            checks[code] = TypeCheck(code, found, options=options)
        return checks[code]

    async def find_lead(self, schema_name: str, value: str) -> str | None:
        """
        Look up a lead through the synchronous API, without creating or changing any.

        Args:
            schema_name: `EmailAddress`, `Phone` or `ProspectID`.
            value: The address, number or id.

        Returns:
            The lead's id, for `Activity.lead`; None if there is no such lead.

        Raises:
            AmbiguousLead: several leads have it. Of several with the same number, LeadSquared's
                page says that it returns only the one with the latest activity.
            UnexpectedAnswer: the answer cannot be read, or is another lead.
            ValueError: LeadSquared has no look-up for that field, or the value is invalid
                (`InvalidActivity`).
        """
        return await self._ask(sync_api.find_lead(schema_name, value))

    async def user(self) -> User:
        """
        Return the user that the keys belong to, from the synchronous API of any region.

        The answer names the account's own hosts.

        Raises:
            Unauthorized: LeadSquared does not know the keys, or the user is deactivated.
        """
        return await self._ask(sync_api.user())

    async def lead_activities(self, lead_id: str, code: int) -> list[LeadActivity]:
        """
        List a lead's activities of one type, from the synchronous API: one call for each 25.

        Args:
            lead_id: The lead's id (ProspectId), a GUID.
            code: The activity type's code.

        Returns:
            Each activity once, in LeadSquared's order, newest first. An accepted activity is among
            them once LeadSquared's queue has processed it.

        Raises:
            UnexpectedAnswer: an answer cannot be read, or LeadSquared returned fewer activities
                than it counts, so that a missing one would prove nothing.
        """
        found: dict[str, LeadActivity] = {}
        # LeadSquared's page has both 0 and 1 for the first page. Where it is 1, page 0 is empty or
        # the same; that nothing in these two is new does not make them the last.
        for number in count():  # pragma: no branch
            call = sync_api.lead_activities(lead_id, code, number)
            page = await self._ask(call)
            known = len(found)
            found |= {activity.activity_id: activity for activity in page.activities}
            if len(found) >= page.record_count:
                break
            if len(found) == known and number > 1:
                raise _incomplete(page.record_count, len(found))
        return list(found.values())

    async def activities_between(
        self, code: int, start: datetime, end: datetime, *, most_calls: int | None = None
    ) -> list[LeadActivity] | None:
        """
        List the activities of one type, of all leads, that were modified in a span of time.

        Args:
            code: The activity type's code.
            start: Start of the span, aware. LeadSquared compares `ModifiedOn` in whole seconds, so
                an activity that was edited after the span is not found.
            end: End of the span, aware, rounded up to a second. Both ends are included, so adjacent
                spans share the activities of their common second.
            most_calls: Give up if more calls are needed; a call reads up to 1,000 activities.

        Returns:
            Each activity once, sorted by id; None if `most_calls` were not enough.

        Raises:
            UnexpectedAnswer: an answer cannot be read, or LeadSquared returned fewer activities
                than it counts, for example because one was edited meanwhile.
            ValueError: `start` or `end` is not aware.
        """
        if start.utcoffset() is None or end.utcoffset() is None:
            raise ValueError("start and end must be aware date-times")
        if end.microsecond:
            end = end.replace(microsecond=0) + timedelta(seconds=1)

        found: dict[str, LeadActivity] = {}
        wanted = 0
        for number in count(1):  # pragma: no branch
            call = sync_api.activities_between(code, start, end, number)
            page = await self._ask(call)
            known = len(found)
            found |= {activity.activity_id: activity for activity in page.activities}
            wanted = max(wanted, page.record_count)
            # RecordCount may be the page's, so only a page that is not full proves to be the last.
            if len(page.activities) < sync_api.LONG_PAGE or len(found) == known:
                break
            if most_calls is not None and max(wanted, len(found) + 1) > (
                most_calls * sync_api.LONG_PAGE
            ):
                return None
        if len(found) < wanted:
            raise _incomplete(wanted, len(found))
        return list(found.values())


def _incomplete(counted: int, returned: int) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"LeadSquared counts {counted} activities but returned {returned}; try again"
    )
