"""OpenAI's own Python SDK: chat completions and responses."""

import openai
import httpx2
from cases import http_client, of_an_api, run


def client(base):
    return openai.AsyncOpenAI(api_key="test", base_url=f"{base}/v1", max_retries=0, timeout=None, http_client=http_client(httpx2))


async def chat(base):
    async with client(base) as api:
        messages = [{"role": "user", "content": "hi"}]
        async for chunk in await api.chat.completions.create(model="m", messages=messages, stream=True):
            yield chunk.model_dump()


async def responses(base):
    async with client(base) as api:
        async for event in await api.responses.create(model="m", input="hi", stream=True):
            yield event.model_dump()


def cases():
    for api, read in (("chat", chat), ("responses", responses)):
        yield from of_an_api(api, read, openai.APIError, openai.APIStatusError)


run(cases())
