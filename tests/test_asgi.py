"""One patched client in a web server: every request is billed to its tenant, and to nobody else."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import tokencap
from tokencap import Action, BudgetExceededError, DimensionPolicy, Policy, Threshold
from tokencap._loopback import LoopbackProvider
from tokencap.backends.sqlite import SQLiteBackend
from wire import http_library

TENANTS = [f"tenant-{number}" for number in range(10)]
POOR = "tenant-7"
BUSY_SECONDS = 120.0


class Tenancy:
    """Middleware: what is done for a request is done for the tenant it names."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        tenant = Request(scope).headers["x-tenant"]
        with tokencap.scope(identifiers={"tenant": tenant}, tags={"path": scope["path"]}):
            await self.app(scope, receive, send)


def application() -> Any:
    client: Any = None

    async def ask(tenant: str, **more: Any) -> Any:
        return await client.chat.completions.create(
            model="gpt-4o", user=tenant, messages=[{"role": "user", "content": f"I am {tenant}."}], **more
        )

    async def plain(request: Request) -> Response:
        try:
            reply = await ask(request.headers["x-tenant"])
        except BudgetExceededError as error:
            return JSONResponse({"violated": error.check_result.violated}, status_code=429)
        return JSONResponse({"text": reply.choices[0].message.content})

    async def streamed(request: Request) -> Response:
        try:
            stream = await ask(request.headers["x-tenant"], stream=True)
        except BudgetExceededError as error:
            return JSONResponse({"violated": error.check_result.violated}, status_code=429)

        async def texts() -> AsyncIterator[str]:
            async for chunk in stream:
                yield chunk.choices[0].delta.content or ""

        return StreamingResponse(texts())

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        nonlocal client
        async with openai.AsyncOpenAI(max_retries=0) as client:
            yield

    return Tenancy(Starlette(routes=[Route("/plain", plain), Route("/stream", streamed)], lifespan=lifespan))


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an app on a free port, in a thread with an event loop of its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.mark.parametrize("limits", ["mapping", "function"])
def test_200_concurrent_requests_of_10_tenants_are_each_billed_to_their_tenant(
    loopback: LoopbackProvider, limits: str
) -> None:
    by_tenant = {POOR: 100, "*": 1_000_000}
    policy = Policy(
        {
            "tenant": DimensionPolicy(
                limit=by_tenant if limits == "mapping" else lambda tenant: by_tenant.get(tenant, 1_000_000),
                thresholds=[Threshold(1.0, [Action("BLOCK")])],
                required=True,
            )
        }
    )
    records: list[tokencap.CallRecord] = []
    tokencap.init(policy, backend=SQLiteBackend("tokencap.db"), quiet=True).on_call(records.append)
    tokencap.patch(providers=["openai"])

    async def visitors(url: str) -> list[tuple[str, int]]:
        httpx = http_library("openai")
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=BUSY_SECONDS) as visitor:

            async def visit(number: int) -> tuple[str, int]:
                tenant = TENANTS[number % 10]
                path = "/stream" if number // 10 % 2 else "/plain"
                reply = await visitor.get(path, headers={"x-tenant": tenant})
                return tenant, reply.status_code

            return await asyncio.gather(*[visit(number) for number in range(200)])

    with served(application()) as url:
        answers = collections.Counter(asyncio.run(visitors(url)))

    assert {tenant for tenant, status in answers if status != 200} == {POOR}
    assert all(answers[tenant, 200] == 20 for tenant in TENANTS if tenant != POOR)
    assert answers[POOR, 429] > 0
    assert answers[POOR, 200] + answers[POOR, 429] == 20

    billed: collections.Counter[str] = collections.Counter()
    for entry in loopback.journal:
        billed[entry.request["user"]] += entry.tokens
    assert loopback.calls == 200 - answers[POOR, 429]
    for tenant in TENANTS:
        with tokencap.scope({"tenant": tenant}):
            state = tokencap.get_status().dimensions["tenant"]
        assert (tenant, state.used, state.reserved) == (tenant, billed[tenant], 0)
    noted: collections.Counter[str] = collections.Counter()
    for record in records:
        noted[record.identifiers["tenant"]] += record.tokens
    assert noted == billed
    assert {record.tags["path"] for record in records} == {"/plain", "/stream"}
