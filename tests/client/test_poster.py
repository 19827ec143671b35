"""The client against the sandbox, over real sockets: every API call."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from raw_server import ACCEPTED, Connection, RawServer, answer
from support import API_KEY, DOCUMENT, SECRET_KEY, LeadSquared, account, activity, run, within

from leadpost import (
    Account,
    Activity,
    ApplicationError,
    AsyncActivityPoster,
    ConnectionFailed,
    DeliveryUncertain,
    InvalidActivity,
    NotFound,
    NotSent,
    OpenBucket,
    RequestStatus,
    RetryPolicy,
    StatusTimeout,
    TokenBucket,
    Unauthorized,
    UnexpectedAnswer,
)
from leadpost.sandbox import Faults, Sandbox, request_id_of

QUICK = RetryPolicy(initial_wait=0.01, jitter=0.01)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pace=1000) as running:
        yield running


def keys_of(sandbox: Sandbox) -> dict[str, Any]:
    return {name: getattr(sandbox, name) for name in ("access_key", "secret_key", "api_key")}


@pytest.mark.parametrize(
    "posted",
    [
        json.loads(DOCUMENT),
        Activity.from_payload(json.loads(DOCUMENT)),
        Activity.from_json(DOCUMENT),
    ],
    ids=["mapping", "Activity", "JSON text"],
)
async def test_the_body_on_leadsquareds_page_arrives_unchanged(
    sandbox: Sandbox, posted: Any
) -> None:
    async with AsyncActivityPoster(sandbox.account()) as poster:
        request_id = await poster.post(posted)
    (taken,) = sandbox.accepted
    assert taken.payload == json.loads(DOCUMENT)
    assert request_id == request_id_of(json.loads(DOCUMENT))


async def test_wait_returns_the_final_status_with_the_activitys_id(sandbox: Sandbox) -> None:
    async with AsyncActivityPoster(sandbox.account()) as poster:
        request_id = await poster.post(activity(201))
        status = await poster.wait(request_id)
        assert (status.state, status.status, status.request_id) == (
            "succeeded",
            "Success",
            request_id,
        )
        assert status.activity_id
        refused = await poster.wait(await poster.post(activity(999)))
        assert (refused.state, refused.status) == ("failed", "ERROR")


async def test_a_queued_request_is_pending_and_counted_in_the_metrics() -> None:
    with Sandbox(pace=0.5) as sandbox:
        async with AsyncActivityPoster(sandbox.account()) as poster:
            ids = await poster.post_many(activity(201, activity_note=str(n)) for n in range(5))
            status = await poster.status(ids[-1])
            assert (status.state, status.is_final, status.status) == ("pending", False, "In-Queue")
            metrics = await poster.metrics()
            assert metrics.pending_messages >= 4
            assert metrics.max_delay_in_seconds >= 0
            with pytest.raises(StatusTimeout, match=r"not final after 0\.2 s") as caught:
                await poster.wait(ids[-1], timeout=0.2)
            assert isinstance(caught.value.last, RequestStatus)
            assert isinstance(caught.value, TimeoutError)


async def test_post_sync_returns_the_activitys_id(sandbox: Sandbox) -> None:
    async with AsyncActivityPoster(sandbox.account()) as poster:
        assert await poster.post_sync(activity(201))
        with pytest.raises(ApplicationError, match="MXInvalidActivityException"):
            await poster.post_sync(activity(999))


async def test_every_call_takes_a_token(sandbox: Sandbox) -> None:
    bucket = TokenBucket()
    async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
        request_id = await poster.post(activity(201))
        await poster.status(request_id)
        await poster.metrics()
        await poster.activity_types()
        await poster.activity_type(201)
        await poster.post_sync(activity(201))
        assert bucket.statistics().resting == 6 == sandbox.report().arrivals


async def test_paths_keys_and_final_statuses_are_settings() -> None:
    with Sandbox(status_path="/activity/status", ends={201: "FAILURE"}, pace=1000) as sandbox:
        keys = keys_of(sandbox)
        account = Account(
            host=sandbox.url,
            keys_in="headers",
            status_path="/activity/status",
            metrics_path="/m",
            failure_is_final=True,
            **keys,
        )
        async with AsyncActivityPoster(account) as poster:
            status = await poster.wait(await poster.post(activity(201)))
            assert (status.state, status.status) == ("failed", "FAILURE")
            with pytest.raises(NotFound, match="/m"):
                await poster.metrics()
        async with AsyncActivityPoster(Account(host=sandbox.url, **keys)) as poster:
            with pytest.raises(NotFound):
                await poster.status("x")


@pytest.mark.parametrize("wrong", ["access_key", "secret_key", "api_key"])
async def test_rejected_keys_raise_unauthorized(sandbox: Sandbox, wrong: str) -> None:
    keys = keys_of(sandbox)
    keys[wrong] = "another"
    account = Account(host=sandbox.url, **keys)
    async with AsyncActivityPoster(account) as poster:
        with pytest.raises(Unauthorized) as caught:
            await poster.post(activity())
    assert caught.value.status in {401, 403}
    assert caught.value.attempts == 1


async def test_an_invalid_activity_raises_before_any_call(sandbox: Sandbox) -> None:
    async with AsyncActivityPoster(sandbox.account()) as poster:
        with pytest.raises(InvalidActivity, match="RelatedProspectId"):
            await poster.post({"ActivityEvent": 201})
        with pytest.raises(InvalidActivity, match="wanted an Activity or a mapping"):
            await poster.post("text")  # type: ignore[arg-type]  # the mistake
    assert sandbox.report().arrivals == 0


async def test_a_host_that_cannot_be_reached_is_retried_then_raises() -> None:
    with Sandbox() as sandbox:
        account = sandbox.account()
    policy = RetryPolicy(max_attempts=3, initial_wait=0.01, jitter=0)
    async with AsyncActivityPoster(account, retry=policy) as poster:
        with pytest.raises(ConnectionFailed) as caught:
            await poster.post(activity())
        assert caught.value.attempts == 3
        assert caught.value.state == "failed"


@pytest.mark.parametrize("fault", ["cut-before", "cut-after", "slow", "502-after", "504-before"])
async def test_a_post_without_a_readable_answer_is_uncertain_and_not_retried(fault: str) -> None:
    with Sandbox(faults=Faults(script=[fault], slow=30)) as sandbox:
        client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=1))
        async with client, AsyncActivityPoster(sandbox.account(), client=client) as poster:
            with pytest.raises(DeliveryUncertain) as caught:
                await poster.post(activity())
        assert caught.value.attempts == 1
        assert caught.value.state == "uncertain"
        async with within(60):
            while not sandbox.report().arrivals:  # the client may time out before it arrives
                await asyncio.sleep(0.01)
        assert sandbox.report().arrivals == 1
        assert sandbox.report().accepted == (0 if "before" in fault else 1)


async def test_with_on_uncertain_retry_an_uncertain_post_is_retried_and_may_be_a_duplicate() -> (
    None
):
    with Sandbox(faults=Faults(script=["cut-after"])) as sandbox:
        poster = AsyncActivityPoster(sandbox.account(), retry=QUICK, on_uncertain="retry")
        async with poster:
            assert await poster.post(activity()) == sandbox.accepted[1].request_id
        assert sandbox.report().duplicates == 1


@pytest.mark.parametrize("fault", ["cut-before", "cut-after", "slow", "502-after", "504-before"])
async def test_a_query_without_an_answer_is_retried(fault: str) -> None:
    with Sandbox(faults=Faults(script=[fault], slow=30)) as sandbox:
        client = httpx.AsyncClient(timeout=0.3)
        poster = AsyncActivityPoster(sandbox.account(), client=client, retry=QUICK)
        async with client, poster:
            assert (await poster.metrics()).pending_messages == 0
        assert sandbox.report().arrivals == 2


async def test_an_injected_client_is_used_and_left_open(sandbox: Sandbox) -> None:
    seen: list[str] = []

    async def hook(request: httpx.Request) -> None:
        seen.append(str(request.url) + str(request.headers))

    async with httpx.AsyncClient(
        headers={"User-Agent": "service/1"}, event_hooks={"request": [hook]}
    ) as client:
        async with AsyncActivityPoster(sandbox.account(), client=client) as poster:
            await poster.post(activity())
        assert not client.is_closed
        assert "service/1" in seen[0]
        assert (await client.get(sandbox.url)).status_code == 404
        assert "accessKey" not in str(client.params)
    with pytest.raises(RuntimeError, match="closed"):
        await poster.post(activity())


async def test_only_tokens_limit_the_number_of_connections() -> None:
    """A pool with a limit loses connections when calls are cancelled (httpcore 1.0)."""
    all_arrived = asyncio.Event()

    async def answer_once_all_arrived(connection: Connection) -> None:
        await connection.request()
        if len(server.requests) == 150:
            all_arrived.set()
        await all_arrived.wait()
        await connection.send(answer(200, ACCEPTED))

    async with (
        within(60),
        RawServer(answer_once_all_arrived) as server,
        AsyncActivityPoster(account(host=server.url), bucket=OpenBucket()) as poster,
    ):
        await asyncio.gather(*(poster.post(activity(n + 1)) for n in range(150)))


# What an event loop that is over had open can be closed by the garbage collector only.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_poster_works_in_the_next_event_loop() -> None:
    with Sandbox() as sandbox:
        poster = AsyncActivityPoster(sandbox.account())
        for number in range(4):
            posted = run(poster.post(activity(201, activity_note=f"note {number}")))
            assert posted == sandbox.accepted[-1].request_id
        run(poster.aclose())
        with pytest.raises(RuntimeError, match="this poster is closed"):
            run(poster.post(activity()))
    assert sandbox.report().accepted == 4
    gc.collect()


def test_a_poster_is_used_in_one_event_loop_at_a_time(sandbox: Sandbox) -> None:
    async def elsewhere(poster: AsyncActivityPoster) -> None:
        with pytest.raises(RuntimeError, match="in use on another event loop"):
            await asyncio.to_thread(run, poster.post(activity()))

    async def main() -> None:
        async with AsyncActivityPoster(sandbox.account(), bucket=OpenBucket()) as poster:
            await poster.post(activity())
            await elsewhere(poster)

    run(main())
    assert sandbox.report().accepted == 1


async def test_a_post_waiting_for_its_token_sends_nothing_once_its_client_is_closed() -> None:
    leadsquared, bucket = LeadSquared(), TokenBucket(1, period=0.2)
    client = leadsquared.client()
    poster = AsyncActivityPoster(account(), client=client, bucket=bucket)
    await poster.post(activity(1))
    waiting = asyncio.create_task(poster.post(activity(2)))
    await asyncio.sleep(0.05)
    await client.aclose()
    with pytest.raises(
        NotSent, match="the client of this poster was closed before anything was sent"
    ):
        await waiting
    assert leadsquared.numbers == [1]


async def test_a_client_hook_that_calls_raise_for_status_changes_nothing() -> None:
    async def hook(response: httpx.Response) -> None:
        response.raise_for_status()

    with Sandbox(faults=Faults(script=["500", "429-retry-after", "ok"], retry_after=0)) as sandbox:
        client = httpx.AsyncClient(event_hooks={"response": [hook]})
        poster = AsyncActivityPoster(sandbox.account(), client=client, retry=QUICK)
        async with client, poster:
            assert await poster.post(activity()) == sandbox.accepted[0].request_id


@pytest.mark.parametrize("keys_in", ["query", "headers"])
async def test_each_host_gets_only_its_own_keys(keys_in: Any) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=[])

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    account = Account(
        region="india", access_key="u$ra", secret_key="bbbb", api_key="cccc", keys_in=keys_in
    )
    async with client, AsyncActivityPoster(account, client=client) as poster:
        await poster.activity_types()
        with pytest.raises(DeliveryUncertain):
            await poster.post(activity())
    for request, host, api_key in zip(sent, ("api", "asyncapi"), (None, "cccc"), strict=True):
        assert request.url.host == f"{host}-in21.leadsquared.com"
        assert request.headers.get("x-api-key") == api_key
        if keys_in == "query":
            assert request.url.query == b"accessKey=u%24ra&secretKey=bbbb"
            assert "x-LSQ-AccessKey" not in request.headers
        else:
            assert request.url.query == b""
            assert request.headers["x-LSQ-AccessKey"] == "u$ra"
            assert request.headers["x-LSQ-SecretKey"] == "bbbb"


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize("keys_for_status", [False, True])
async def test_status_and_metrics_calls_have_the_other_keys_only_with_keys_for_status(
    keys_in: Any, *, keys_for_status: bool
) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=[])

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    made = account(keys_in=keys_in, keys_for_status=keys_for_status)
    async with client, AsyncActivityPoster(made, client=client) as poster:
        for query in (poster.status("r1"), poster.metrics(), poster.metrics("createcustom")):
            with pytest.raises(UnexpectedAnswer):
                await query
    assert [request.url.path for request in sent] == [
        "/activity/create/status",
        "/activity/createcustom/status",
        "/activity/create/metrics",
        "/activity/createcustom/metrics",
    ]
    for request in sent:
        assert request.headers["x-api-key"] == API_KEY
        in_query = {"accessKey", "secretKey"} <= set(request.url.params)
        in_headers = {"x-lsq-accesskey", "x-lsq-secretkey"} <= set(request.headers)
        assert in_query is (keys_for_status and keys_in == "query")
        assert in_headers is (keys_for_status and keys_in == "headers")
        assert (SECRET_KEY in f"{request.url} {request.headers.raw!r}") is keys_for_status


def test_repr_shows_the_host_and_the_bucket(sandbox: Sandbox) -> None:
    poster = AsyncActivityPoster(sandbox.account(), bucket=OpenBucket())
    assert repr(poster) == f"<AsyncActivityPoster to {sandbox.url}: <OpenBucket>>"
    asyncio.run(poster.aclose())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_uncertain": "ignore"}, "on_uncertain: found 'ignore', wanted 'raise' or 'retry'"),
        *(
            (
                {"call_timeout": seconds},
                f"call_timeout: found {seconds}, wanted a finite number of seconds above 0",
            )
            for seconds in (0, -1.0, float("inf"), float("nan"))
        ),
    ],
)
def test_an_option_out_of_range_raises(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AsyncActivityPoster(account(), **options)
