"""What the scripts of the official clients have in common: proxy/tests/sdks.rs runs them with the
addresses of the origin and of the proxy before it, the number of events of each answer, and the number
behind which a proper end is that of a whole answer, though its last word is missing."""

import asyncio
import json
import os
import ssl
import sys
import traceback

DIRECT, THROUGH = sys.argv[1], sys.argv[2]
EVENTS = json.loads(sys.argv[3])
WHOLE = json.loads(sys.argv[4])

# Cases that run side by side: each has a client and connections of its own, and on a busy machine hundreds of them
# that start at once do not get as far as their handshakes.
AT_ONCE = 8

# In this time one of them ends, however busy the machine is: its slowest one takes a second on an idle machine.
STALLED = 120

# With these alone, where what is tried is not the client, but the way to it.
FEW = ["late/0", "status/429", "cut-close/1", "half-reset/1", "silent/1", "refused/401"]

# Behind an event or in it; by a proper end, a close without one, or a reset, which may overtake what was
# sent ahead of it, the head too.
CUTS = [f"{where}-{how}" for where in ("cut", "half") for how in ("clean", "close", "reset")]

# What a client of ours is told of each.
TOLD = {
    "clean": "ended before it was complete",
    "close": "failed in the middle of its stream",
    "reset": "failed in the middle of its stream",
    "silent": "went silent",
}


async def outcome(items):
    """All items, and the exception that ended them, if one did."""
    seen = []
    try:
        async for item in items:
            seen.append(item)
    except Exception as error:
        return seen, error
    return seen, None


async def both(read, case):
    """What comes from the origin itself, and what through the proxy."""
    return await asyncio.gather(outcome(read(DIRECT + case)), outcome(read(THROUGH + case)))


# One for all clients, as it takes a while to make.
VERIFY = ssl.create_default_context()


def http_client(httpx):
    """A client of this module without time limits, which uses HTTP/2 if it is told to."""
    http2 = bool(os.environ.get("HTTP2"))

    async def check(response):
        if http2 and response.url.scheme == "https":
            same(response.http_version, "HTTP/2")

    return httpx.AsyncClient(verify=VERIFY, http2=http2, timeout=None, event_hooks={"response": [check]})


def same(seen, expected):
    assert seen == expected, f"\n{seen}\nis not\n{expected}"


def chosen(cases):
    for name, case in cases:
        if name.split("/", 1)[1] in FEW:
            yield name, case
        else:
            case.close()


def run(cases):
    """Runs coroutines by name, a few side by side, and tells which of them failed. What bounds them is progress, not the
    clock: all that are under way have failed when none of them ends for long."""

    async def one(case):
        try:
            await case
        except Exception:
            return traceback.format_exc()
        return None

    async def all_of_them():
        waiting, under_way, results = iter(cases), {}, {}
        while True:
            while len(under_way) < AT_ONCE and (case := next(waiting, None)):
                under_way[asyncio.create_task(one(case[1]))] = case[0]
            if not under_way:
                return results
            ended, _ = await asyncio.wait(
                under_way, timeout=STALLED, return_when=asyncio.FIRST_COMPLETED
            )
            for task in ended or list(under_way):
                name = under_way.pop(task)
                results[name] = task.result() if task in ended else f"no progress in {STALLED} s"
                task.cancel()

    if os.environ.get("CASES") == "few":
        cases = list(chosen(cases))
    results = asyncio.run(all_of_them())
    failed = {name: why for name, why in results.items() if why}
    for name, why in failed.items():
        print(f"FAILED {name}\n{why}")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


def of_an_api(api, read, proper, status_error, in_pieces=True):
    """The cases of an API whose answers have a last word.

    `read(base)` yields the items of one answer, `proper` is what its SDK raises for an answer that
    failed, `status_error` what it raises for a status. Not `in_pieces`, there is one item at the end.
    """
    last = EVENTS[api]

    async def complete(case):
        # What comes at once, with line ends by LF: no part of it depends on where reads fall.
        expected, _ = await outcome(read(f"{DIRECT}/cut-clean/{last}"))
        same(await outcome(read(THROUGH + case)), (expected, None))

    async def like_direct(case):
        (direct, how), (seen, error) = await both(read, case)
        same(seen, direct)
        assert type(error) is type(how), f"{error!r} is not as {how!r}"
        if isinstance(how, status_error):
            same((error.status_code, str(error)), (how.status_code, str(how)))

    async def first(count):
        seen, _ = await outcome(read(f"{DIRECT}/cut-clean/{count}"))
        return seen if in_pieces else []

    async def like_cut(how, count):
        expected, _ = await outcome(read(f"{DIRECT}/cut-clean/{count}"))
        same(await outcome(read(f"{THROUGH}/{how}/{count}")), (expected, None))

    async def cut(how, count):
        if how.endswith("clean") and count >= WHOLE[api]:
            await like_cut(how, count)
            return
        expected = await first(count)
        seen, error = await outcome(read(f"{THROUGH}/{how}/{count}"))
        assert isinstance(error, proper), f"{error!r} after {seen}"
        how = how.split("-")[-1]
        if how == "reset":
            same(seen, expected[: len(seen)])
            if isinstance(error, status_error) and error.status_code == 502:
                return
        else:
            same(seen, expected)
        assert TOLD[how] in str(error), str(error)

    async def refused(status):
        # Too late to be told by a status: it was answered early.
        seen, error = await outcome(read(f"{THROUGH}/refused/{status}"))
        same(seen, [])
        assert isinstance(error, proper) and str(status) in str(error), repr(error)

    async def away():
        _, error = await outcome(read(f"{THROUGH}/away/0"))
        assert isinstance(error, status_error) and error.status_code == 502, repr(error)

    for case in ("/whole/0", "/crlf/0", "/late/0", f"/cut-clean/{last}"):
        yield f"{api}{case}", complete(case)
    alike = [f"/status/{status}" for status in (400, 401, 429, 500, 529)]
    alike += [f"/told/{count}" for count in range(last)]
    for case in alike:
        yield f"{api}{case}", like_direct(case)
    for count in range(last):
        for how in [*CUTS, "silent"]:
            yield f"{api}/{how}/{count}", cut(how, count)
    for status in (400, 401, 429, 500, 529):
        yield f"{api}/refused/{status}", refused(status)
    yield f"{api}/away", away()
