"""Asks both: the address behind which the upstream is, and the one with sse-guard in between."""

import asyncio
import sys
import time

import openai


async def ask(base):
    start = time.monotonic()
    async with openai.AsyncOpenAI(api_key="test", base_url=f"{base}/v1", max_retries=0) as api:
        try:
            messages = [{"role": "user", "content": "what is it?"}]
            stream = await api.chat.completions.create(model="m", messages=messages, stream=True)
            answer = "".join([chunk.choices[0].delta.content async for chunk in stream])
        except openai.APIError as error:
            answer = error
    return answer, time.monotonic() - start


async def main():
    (without, lost), (answer, took) = await asyncio.gather(*map(ask, sys.argv[1:3]))
    print(f"without sse-guard: {without!r} after {lost:.0f} s".replace("\\r\\n", " "))
    print(f"with sse-guard: {answer!r} after {took:.0f} s")
    sys.exit(answer != "It is 42.")


asyncio.run(main())
