"""What all cases have in common: processes that end with their case, ports, conditions."""

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import httpx

HERE = pathlib.Path(__file__).parent
GUARD = os.environ["SSE_GUARD"]
NODE_PACKAGES = pathlib.Path(os.environ["NODE_PACKAGES"])

# Longer than anything takes, also on a loaded machine: a wait that reaches it has failed.
PATIENCE = 60


class Skip(Exception):
    """A part of the case is not on this machine."""


def need(command):
    """The path of a program."""
    path = shutil.which(command)
    if not path:
        raise Skip(f"no {command}")
    return path


def need_node():
    if not (NODE_PACKAGES / "node_modules").is_dir():
        raise Skip("no Node packages")
    return need("node")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def until(what, condition):
    """Waits until `condition()`, which may be a coroutine function, is true."""
    deadline = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"never came: {what}"
        await asyncio.sleep(0.02)


def same(seen, expected):
    assert seen == expected, f"\n{seen!r}\nis not\n{expected!r}"


class Process:
    """A program that listens on `port`, with its output in a file."""

    def __init__(self, folder, argv, port, env, inherited):
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        descriptor, path = tempfile.mkstemp(".log", dir=folder)
        self.log = pathlib.Path(path)
        with open(descriptor, "w") as log:
            self.popen = subprocess.Popen(
                [str(arg) for arg in argv],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
            )

    def output(self):
        return self.log.read_text()

    def listens(self):
        assert self.popen.poll() is None, f"it has ended:\n{self.output()}"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    async def ready(self):
        await until(f"{self.popen.args} listens", self.listens)
        return self

    async def writes(self, text):
        """Waits for `text` in the output."""

        def is_there():
            assert self.popen.poll() is None, f"it has ended:\n{self.output()}"
            return text in self.output()

        await until(f"{self.popen.args} writes {text!r}", is_there)
        return self

    def kill(self):
        self.popen.kill()
        self.popen.wait()

    def terminate(self):
        self.popen.send_signal(signal.SIGTERM)

    async def ended(self):
        await until("the process ends", lambda: self.popen.poll() is not None)
        return self.popen.returncode


class Lab:
    """The processes of one case."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="stacks-")
        self.processes = []

    def close(self):
        for process in self.processes:
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, argv, port, env=None, inherited=()):
        process = Process(self.folder, argv, port, env, inherited)
        self.processes.append(process)
        return process

    async def python(self, server, *args, port=None):
        port = port or free_port()
        argv = [sys.executable, HERE / "servers" / server, port, *args]
        return await self.start(argv, port).ready()

    async def node(self, server, *args, port=None):
        port = port or free_port()
        argv = [need_node(), HERE / "servers" / server, port, *args]
        return await self.start(argv, port).ready()

    async def guard(self, upstream, *flags, port=None, prefix=(), inherited=()):
        """The proxy before `upstream`, on a free port, without an operator's address."""
        port = port or free_port()
        argv = [*prefix, GUARD, "--listen", f"127.0.0.1:{port}", "--admin-listen", "off"]
        argv += ["--upstream-url", upstream, *flags]
        guard = self.start(argv, port, inherited=inherited)
        # Another process may listen on the same port.
        return await guard.writes("listening on")

    async def guard_by(self, config, port):
        """The proxy with this file, which listens on `port`."""
        return await self.start([GUARD, "--config", config], port).writes("listening on")

    def node_client(self, script, *args):
        argv = [need_node(), HERE / "clients" / script, *args]
        return self.start(argv, 0, {"NODE_PACKAGES": str(NODE_PACKAGES)})


class Feed:
    """Reads a stream of events in the background; `numbers` are the ids that came."""

    def __init__(self, url, accept="text/event-stream"):
        self.url, self.accept = url, accept
        self.numbers, self.text, self.headers, self.error, self.over = [], "", {}, None, False
        self.task = asyncio.create_task(self.read())

    async def read(self):
        try:
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                headers = {"accept": self.accept}
                async with client.stream("GET", self.url, headers=headers) as response:
                    self.status, self.headers = response.status_code, response.headers
                    async for line in response.aiter_lines():
                        self.text += line + "\n"
                        if line.startswith("id: "):
                            self.numbers.append(int(line[4:]))
        except httpx.HTTPError as error:
            self.error = error
        self.over = True

    async def reaches(self, number):
        await until(
            f"{self.url} reaches {number}: {self.numbers[-3:]} {self.error!r}",
            lambda: self.over or (self.numbers and self.numbers[-1] >= number),
        )
        assert not self.over, f"{self.url} ended at {self.numbers[-3:]}: {self.error!r}"

    def whole(self):
        """Each number once and in order."""
        same(self.numbers, list(range(1, len(self.numbers) + 1)))

    def close(self):
        self.task.cancel()
