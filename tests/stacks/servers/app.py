"""A FastAPI application with sse-starlette, as its users write them: feeds, a job, and an LLM API.

    python app.py PORT [ALLOWED_ORIGIN]
    python app.py PORT --tls CERTIFICATE KEY
"""

import asyncio
import json
import sys

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

app = FastAPI()
TLS = sys.argv[3:] if sys.argv[2:3] == ["--tls"] else []
if len(sys.argv) > 2 and not TLS:
    app.add_middleware(
        CORSMiddleware, allow_origins=[sys.argv[2]], allow_credentials=True, allow_methods=["*"]
    )

# Over the size at which the proxy lets an event through in pieces.
BIG = "x" * 100_000


async def ticks(request, data, gap=0.02):
    """Numbered events behind `Last-Event-ID`."""
    number = int(request.headers.get("last-event-id", 0))
    while True:
        number += 1
        yield ServerSentEvent(id=str(number), event="tick", data=data(number))
        await asyncio.sleep(gap)


@app.get("/feed")
async def feed(request: Request):
    return EventSourceResponse(ticks(request, str))


@app.get("/big")
async def big(request: Request):
    return EventSourceResponse(ticks(request, lambda number: f"{number} {BIG}"))


@app.get("/quiet")
async def quiet():
    async def nothing():
        await asyncio.Event().wait()
        yield

    return EventSourceResponse(nothing())


@app.get("/late")
async def late(request: Request):
    """Thinks for longer than `early.after` of the case before it answers."""
    await asyncio.sleep(1)
    return EventSourceResponse(ticks(request, str))


@app.get("/job/{seconds}")
async def job(seconds: float):
    """What `fetch` reads to its end: progress, then the result."""

    async def progress():
        for step in range(10):
            yield ServerSentEvent(event="progress", data=str(step))
            await asyncio.sleep(seconds / 10)
        yield ServerSentEvent(event="result", data="42")

    return EventSourceResponse(progress())


@app.get("/plain")
async def plain():
    return JSONResponse({"ok": True})


@app.post("/count")
async def count(request: Request):
    """The length of an upload, in its response."""
    length = 0
    async for part in request.stream():
        length += len(part)
    return JSONResponse({"length": length})


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


def chat(finish=None, **more):
    choice = {"index": 0, "delta": {} if finish else {"content": "a"}, "finish_reason": finish}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return json.dumps({**chunk, "choices": [choice], **more})


AZURE_FIRST = json.dumps(
    {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
)

# By the model's name: the data of all events of an answer.
CHATS = {
    "whole": [chat(), chat("stop"), "[DONE]"],
    "no-done": [chat(), chat("stop")],
    "usage": [chat(), chat("stop"), chat(choices=[], usage={"total_tokens": 1})],
    "azure": [AZURE_FIRST, chat(), chat("stop"), "[DONE]"],
    "azure-half": [AZURE_FIRST, chat()],
    "half": [chat(), chat()],
    "error": [chat(), json.dumps({"error": {"message": "overloaded", "code": 503}})],
}


@app.post("/v1/chat/completions")
async def completions(request: Request):
    body = await request.json()

    async def answer():
        for data in CHATS[body["model"]]:
            yield ServerSentEvent(data=data)

    return EventSourceResponse(answer())


def block(text):
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": 0, "delta": delta}


MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
    "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
}
BEGIN = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    block("a"),
]
STOP = [
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    },
]
MESSAGES = {
    "whole": [*BEGIN, *STOP, {"type": "message_stop"}],
    "no-stop": [*BEGIN, *STOP],
    "half": BEGIN,
    "error": [*BEGIN, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}],
}


@app.post("/v1/messages")
async def messages(request: Request):
    body = await request.json()

    async def answer():
        for event in MESSAGES[body["model"]]:
            yield ServerSentEvent(event=event["type"], data=json.dumps(event))

    return EventSourceResponse(answer())


options = dict(zip(("ssl_certfile", "ssl_keyfile"), TLS))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", **options)
