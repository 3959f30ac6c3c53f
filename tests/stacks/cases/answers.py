"""Whole answers pass as whole ones, half answers fail in the SDKs' own way."""

import anthropic
import httpx
import openai
from lab import PATIENCE, same, until

MESSAGES = [{"role": "user", "content": "hi"}]


async def chat(base, model):
    """The chunks of an answer, and the exception that ended it."""
    seen = []
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{base}/v1", max_retries=0) as api:
        try:
            async for chunk in await api.chat.completions.create(
                model=model, messages=MESSAGES, stream=True
            ):
                seen.append(chunk.model_dump())
        except openai.APIError as error:
            return seen, error
    return seen, None


async def message(base, model):
    seen = []
    async with anthropic.AsyncAnthropic(api_key="x", base_url=base, max_retries=0) as api:
        try:
            async for event in await api.messages.create(
                model=model, max_tokens=9, messages=MESSAGES, stream=True
            ):
                seen.append(event.model_dump())
        except anthropic.APIError as error:
            return seen, error
    return seen, None


async def both(lab, read, model):
    app = await lab.python("app.py")
    guard = await lab.guard(app.url)
    return await read(app.url, model), await read(guard.url, model)


async def whole(lab, read, model):
    (direct, _), (seen, error) = await both(lab, read, model)
    same((seen, error), (direct, None))


async def case_openai_whole(lab):
    await whole(lab, chat, "whole")


async def case_openai_without_done_is_whole(lab):
    await whole(lab, chat, "no-done")


async def case_openai_usage_behind_finish_reason_is_whole(lab):
    await whole(lab, chat, "usage")


async def case_openai_azure_is_whole(lab):
    await whole(lab, chat, "azure")


async def case_openai_half_is_an_error(lab):
    (direct, _), (seen, error) = await both(lab, chat, "half")
    same(seen, direct)
    assert isinstance(error, openai.APIError), repr(error)


async def case_openai_azure_half_is_an_error(lab):
    # No header of an SDK of its own says whose it is: the first event does.
    app = await lab.python("app.py")
    guard = await lab.guard(app.url)
    text = ""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        body = {"model": "azure-half", "stream": True}
        try:
            url = f"{guard.url}/v1/chat/completions"
            async with client.stream("POST", url, json=body) as response:
                async for part in response.aiter_text():
                    text += part
        except httpx.RemoteProtocolError:
            assert 'data: {"error":' in text, text
            return
    assert False, f"it ends as if it were whole: {text}"


async def case_openai_error_of_the_upstream_passes(lab):
    (direct, how), (seen, error) = await both(lab, chat, "error")
    same((seen, type(error), str(error)), (direct, type(how), str(how)))


async def case_anthropic_whole(lab):
    await whole(lab, message, "whole")


async def case_anthropic_without_message_stop_is_whole(lab):
    await whole(lab, message, "no-stop")


async def case_anthropic_half_is_an_error(lab):
    (direct, _), (seen, error) = await both(lab, message, "half")
    same(seen, direct)
    assert isinstance(error, anthropic.APIError), repr(error)


async def case_anthropic_error_of_the_upstream_passes(lab):
    (direct, how), (seen, error) = await both(lab, message, "error")
    same((seen, type(error), str(error)), (direct, type(how), str(how)))


async def case_sdks_of_node_get_whole_answers(lab):
    app = await lab.python("app.py")
    guard = await lab.guard(app.url)
    client = lab.node_client("sdks.mjs", guard.url)
    await until("the SDKs are done", lambda: client.popen.poll() is not None)
    same(client.popen.returncode, 0)
