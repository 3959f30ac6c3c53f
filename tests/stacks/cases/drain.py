"""A restart of the proxy that nobody notices, behind Caddy: TERM and start, the other way round, and with
the listening socket held by a parent, as systemd does."""

import asyncio
import pathlib
import socket

import httpx
from lab import PATIENCE, free_port, need, same, until

FLAGS = ["--drain-window=3s", "--rotation-retry=200ms"]


def caddy(lab, upstream):
    """Caddy in front, with its own defaults for `reverse_proxy`."""
    port = free_port()
    config = pathlib.Path(lab.folder, "Caddyfile")
    # Without TLS it touches no certificate store.
    config.write_text(
        "{\n admin off\n auto_https off\n skip_install_trust\n}\n"
        f"http://127.0.0.1:{port} {{\n reverse_proxy {upstream.removeprefix('http://')}\n}}\n"
    )
    home = {"XDG_DATA_HOME": lab.folder, "XDG_CONFIG_HOME": lab.folder, "HOME": lab.folder}
    return lab.start([need("caddy"), "run", "--config", config, "--adapter", "caddyfile"], port, home)


class Poll:
    """Plain requests, each 100 ms; `refused` are those that were not answered with 200."""

    def __init__(self, url):
        self.url, self.answered, self.refused = url, 0, []
        self.task = asyncio.create_task(self.run())

    async def run(self):
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while True:
                try:
                    response = await client.get(self.url)
                    if response.status_code == 200:
                        self.answered += 1
                    else:
                        self.refused.append(response.status_code)
                except httpx.HTTPError as error:
                    self.refused.append(repr(error))
                await asyncio.sleep(0.1)


async def restart(lab, replace, flags=(), prefix=(), listener=None):
    """`replace(old, start)` ends the old process and returns the new one."""
    app = await lab.node("app.mjs")
    port = listener.getsockname()[1] if listener else free_port()
    inherited = [listener.fileno()] if listener else []

    def start():
        return lab.guard(
            app.url, *FLAGS, *flags, port=port, prefix=prefix, inherited=inherited
        )

    old = await start()
    front = caddy(lab, old.url)
    await front.ready()
    poll = Poll(f"{front.url}/plain")
    sources = lab.node_client("eventsources.mjs", f"{front.url}/feed", 8)
    count = lambda word: sources.output().count(word)
    await until("8 EventSources are open", lambda: count("open") >= 8)
    await until("polls are answered", lambda: poll.answered >= 3)
    new = await replace(old, start)
    same(await old.ended(), 0)
    opened = count("open")
    answered = poll.answered
    await until("polls go on", lambda: poll.answered >= answered + 5)
    # Those that the old process has told to come back are there again, on the new one.
    await until("all EventSources go on", lambda: all_go_on(sources, opened))
    poll.task.cancel()
    same(poll.refused, [])
    same(count("dead"), 0)
    assert new.popen.poll() is None


def all_go_on(sources, opened):
    """Each of the 8 has had events since all of them were last seen."""
    lines = sources.output().splitlines()
    latest = {}
    for line in lines:
        word, source = line.split()[:2]
        if word in ("open", "at"):
            latest[source] = word
    return len(latest) == 8 and sum(line.startswith("open") for line in lines) >= 16


async def case_behind_caddy_term_and_start(lab):
    async def replace(old, start):
        old.terminate()
        await old.writes("stopping")
        return await start()

    await restart(lab, replace)


async def case_behind_caddy_start_and_term(lab):
    async def replace(old, start):
        new = await start()
        old.terminate()
        return new

    await restart(lab, replace, ["--takeover=always"])


async def case_behind_caddy_the_socket_outlives_the_process(lab):
    """The parent holds the listening socket, as systemd does: the old process has gone before the new one
    starts, and clients wait in the kernel meanwhile."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    # The number that the protocol prescribes, in the child.
    activate = 'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'

    async def replace(old, start):
        old.terminate()
        await old.ended()
        return await start()

    prefix = ["/bin/bash", "-c", activate, listener.fileno()]
    try:
        await restart(lab, replace, prefix=prefix, listener=listener)
    finally:
        listener.close()
