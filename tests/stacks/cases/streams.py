"""Living streams go on: jobs, large events, planned replacements, streams marked as not encoded."""

import httpx
from lab import PATIENCE, Feed, free_port, same, until

ROTATE = ["--rotation-max-age=500ms", "--rotation-jitter=0", "--heartbeat-interval=50ms"]


async def case_a_job_read_by_fetch_keeps_its_result(lab):
    app = await lab.python("app.py")
    guard = await lab.guard(app.url, *ROTATE)
    feed = Feed(f"{guard.url}/job/2", accept="*/*")
    await until("the job is done", lambda: feed.over)
    assert "data: 42" in feed.text and "retry:" not in feed.text, feed.text


async def case_an_eventsource_is_rotated(lab):
    app = await lab.python("app.py")
    guard = await lab.guard(app.url, *ROTATE)
    feed = Feed(f"{guard.url}/feed")
    await until("the stream is rotated", lambda: feed.over)
    same(feed.error, None)
    assert "\nretry: " in feed.text, feed.text[-200:]


async def resumed(lab, path, start):
    port = free_port()
    app = await start(port)
    guard = await lab.guard(
        app.url, "--resume-mode=on", "--resume-backoff=50ms", "--heartbeat-interval=50ms"
    )
    feed = Feed(f"{guard.url}{path}")
    for goal in (20, 60):
        await feed.reaches(goal)
        app.kill()
        app = await start(port)
    await feed.reaches(feed.numbers[-1] + 20)
    feed.whole()
    feed.close()


async def case_fastapi_restarts_unnoticed(lab):
    await resumed(lab, "/feed", lambda port: lab.python("app.py", port=port))


async def case_events_over_64_kib_resume_by_their_ids(lab):
    await resumed(lab, "/big", lambda port: lab.python("app.py", port=port))


async def case_express_restarts_unnoticed(lab):
    await resumed(lab, "/feed", lambda port: lab.node("app.mjs", port=port))


async def case_content_encoding_none_is_no_encoding(lab):
    await resumed(lab, "/next", lambda port: lab.node("app.mjs", port=port))


async def case_planned_replacement_loses_nothing(lab):
    app = await lab.python("app.py")
    guard = await lab.guard(app.url, "--resume-mode=on", "--resume-max-connection-age=300ms")
    feed = Feed(f"{guard.url}/feed")
    await feed.reaches(150)
    feed.whole()
    feed.close()


async def case_the_head_comes_with_a_first_heartbeat(lab):
    app = await lab.node("app.mjs")
    guard = await lab.guard(app.url, "--heartbeat-interval=1h")
    feed = Feed(f"{guard.url}/quiet")
    await until("the first heartbeat", lambda: feed.text.startswith(":"))
    feed.close()


async def case_plain_requests_pass(lab):
    app = await lab.python("app.py")
    guard = await lab.guard(app.url)
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        response = await client.get(f"{guard.url}/plain")
        same((response.status_code, response.json()), (200, {"ok": True}))
