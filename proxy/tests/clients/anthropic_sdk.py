"""Anthropic's own Python SDK: messages as raw events, and by its helper that collects them."""

import anthropic
import httpx2
from cases import http_client, of_an_api, run

ASKED = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def client(base):
    return anthropic.AsyncAnthropic(api_key="test", base_url=base, max_retries=0, timeout=None, http_client=http_client(httpx2))


async def events(base):
    async with client(base) as api:
        async for event in await api.messages.create(**ASKED, stream=True):
            yield event.model_dump()


async def collected(base):
    async with client(base) as api, api.messages.stream(**ASKED) as stream:
        yield (await stream.get_final_message()).model_dump()


def cases():
    errors = anthropic.APIError, anthropic.APIStatusError
    yield from of_an_api("messages", events, *errors)
    for name, case in of_an_api("messages", collected, *errors, in_pieces=False):
        yield f"collected: {name}", case


run(cases())
