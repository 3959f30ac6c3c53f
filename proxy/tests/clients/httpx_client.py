"""httpx-sse, as Python programs read feeds."""

import httpx
import httpx_sse
from cases import CUTS, DIRECT, EVENTS, THROUGH, http_client, outcome, run, same


async def events(base):
    async with http_client(httpx) as client:
        async with httpx_sse.aconnect_sse(client, "GET", f"{base}/feed") as source:
            async for event in source.aiter_sse():
                yield event.event, event.data, event.id


async def whole(case):
    expected, _ = await outcome(events(f"{DIRECT}/cut-clean/{EVENTS['feed']}"))
    same(len(expected), EVENTS["feed"])
    same(await outcome(events(THROUGH + case)), (expected, None))


async def cut(how, count):
    direct, _ = await outcome(events(f"{DIRECT}/cut-clean/{count}"))
    seen, error = await outcome(events(f"{THROUGH}/{how}/{count}"))
    # The end of a feed is an end; that it was broken off is what its client is to see.
    if how.endswith("clean"):
        same((seen, error), (direct, None))
    elif how.endswith("close"):
        same(seen, direct)
        assert isinstance(error, httpx.TransportError), repr(error)
    else:
        same(seen, direct[: len(seen)])
        assert isinstance(error, (httpx.TransportError, httpx_sse.SSEError)), repr(error)


def cases():
    for case in ("/whole/0", "/crlf/0", "/late/0"):
        yield f"feed{case}", whole(case)
    for count in range(EVENTS["feed"] + 1):
        for how in CUTS:
            yield f"feed/{how}/{count}", cut(how, count)


run(cases())
