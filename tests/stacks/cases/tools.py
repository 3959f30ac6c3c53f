"""Tools that everybody has, through TLS and HTTP/2: curl, openssl, h2load, and a WebSocket client."""

import asyncio
import ssl

import websocket
from lab import PATIENCE, Skip, free_port, need, same, until
from tls import Authority


class Way:
    """The proxy with a listener of each kind, before an upstream that may have TLS."""

    def __init__(self, plain, tls, unix, authority):
        self.plain, self.tls, self.unix, self.authority = plain, tls, unix, authority


async def guarded(lab, upstream_has_tls=False):
    authority = Authority(lab.folder)
    tls = ["--tls", authority.certificate, authority.key] if upstream_has_tls else []
    app = await lab.python("app.py", *tls)
    ca = f'upstream.tls.ca = "{authority.ca}"' if upstream_has_tls else ""
    scheme = "https" if upstream_has_tls else "http"
    plain, tls = free_port(), free_port()
    unix = f"{lab.folder}/guard.sock"
    config = f"{lab.folder}/guard.toml"
    with open(config, "w") as file:
        file.write(
            f"""
            admin.listen = "off"
            upstream.url = "{scheme}://127.0.0.1:{app.port}"
            {ca}
            heartbeat.interval = "20ms"
            limit.rate = "off"
            [[listener]]
            address = "127.0.0.1:{plain}"
            http2 = true
            [[listener]]
            address = "127.0.0.1:{tls}"
            tls = {{ certificate = "{authority.certificate}", key = "{authority.key}" }}
            [[listener]]
            address = "unix:{unix}"
            """
        )
    guard = await lab.guard_by(config, tls)
    await until("all listeners", lambda: guard.output().count("listening on") == 3)
    return Way(f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}", unix, authority)


async def output(*argv, stdin=b""):
    """The exit code of a program, and what it writes."""
    process = await asyncio.create_subprocess_exec(
        *(str(arg) for arg in argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    return process.returncode, out.decode(errors="replace")


async def curl(way):
    need("curl")
    ca = ["--cacert", way.authority.ca]
    _, features = await output("curl", "--version")
    has_http2 = "HTTP2" in features
    if not has_http2:
        raise Skip("curl without HTTP/2")
    for version, arguments in (
        ("1.1", ["--http1.1", *ca, way.tls]),
        ("2", ["--http2", *ca, way.tls]),
        # Without TLS it goes by `Upgrade: h2c`, which the proxy leaves alone.
        ("1.1", ["--http2", way.plain]),
        ("2", ["--http2-prior-knowledge", way.plain]),
        ("1.1", ["--unix-socket", way.unix, "http://localhost"]),
    ):
        *options, base = arguments
        written = "\nversion %{http_version}, status %{http_code}"
        argv = ["curl", "-sSN", "-w", written, "-H", "Accept: text/event-stream", *options]
        code, text = await output(*argv, f"{base}/job/0.5")
        assert code == 0 and text.endswith(f"\nversion {version}, status 200"), (arguments, text)
        assert "data: 42" in text and ": heartbeat" in text, (arguments, text)
        code, text = await output(*argv, f"{base}/plain")
        assert code == 0 and '{"ok":true}' in text, (arguments, text)
        # An upload of more than any window.
        argv += ["--data-binary", "@-", f"{base}/count"]
        code, text = await output(*argv, stdin=b"x" * 3_000_000)
        assert code == 0 and "3000000" in text, (arguments, text)


async def case_curl_over_each_protocol(lab):
    await curl(await guarded(lab))


async def case_curl_over_each_protocol_to_an_https_upstream(lab):
    await curl(await guarded(lab, upstream_has_tls=True))


async def case_openssl_verifies_resumes_and_selects_protocols(lab):
    openssl = need("openssl")
    way = await guarded(lab)
    client = [openssl, "s_client", "-connect", way.tls.removeprefix("https://"), "-servername", "localhost"]
    client += ["-CAfile", way.authority.ca, "-verify_return_error", "-verify_hostname", "localhost"]
    for version in ("-tls1_3", "-tls1_2"):
        for alpn, selected in (("h2,http/1.1", "h2"), ("http/1.1", "http/1.1")):
            code, text = await output(*client, version, "-alpn", alpn)
            assert code == 0 and f"ALPN protocol: {selected}" in text, text
            assert "Verify return code: 0 (ok)" in text or "Verification: OK" in text, text
    request = b"GET /plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    session = f"{lab.folder}/session"
    # A ticket of TLS 1.3 comes behind the handshake.
    code, text = await output(*client, "-ign_eof", "-sess_out", session, stdin=request)
    assert code == 0 and '{"ok":true}' in text, text
    code, text = await output(*client, "-ign_eof", "-sess_in", session, stdin=request)
    assert code == 0 and "Reused" in text and '{"ok":true}' in text, text
    # A protocol that nobody serves, and versions that are not secure.
    code, text = await output(*client, "-alpn", "spdy/1")
    assert code != 0 and "no application protocol" in text.lower(), text
    code, text = await output(*client, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert code != 0, text


async def case_h2load_has_every_request_answered(lab):
    h2load = need("h2load")
    way = await guarded(lab)
    for requests, path in ((200, "/plain"), (30, "/job/0.2")):
        for base, options in ((way.tls, []), (way.plain, []), (way.tls, ["--h1"])):
            argv = [h2load, f"-n{requests}", "-c6", *(options or ["-m10"])]
            code, text = await output(*argv, base + path)
            assert code == 0 and f"{requests} succeeded, 0 failed, 0 errored" in text, text
            assert f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in text, text


async def websockets(lab, upstream_has_tls):
    way = await guarded(lab, upstream_has_tls)

    def talk():
        context = ssl.create_default_context(cafile=way.authority.ca)
        for base, options in ((way.tls, {"sslopt": {"context": context}}), (way.plain, {})):
            url = base.replace("http", "ws", 1) + "/echo"
            socket = websocket.create_connection(url, timeout=PATIENCE, **options)
            for text in ("one", "x" * 200_000, "two"):
                socket.send(text)
                same(socket.recv(), text)
            socket.ping("p")
            socket.close()

    await asyncio.to_thread(talk)


async def case_websocket_over_tls(lab):
    await websockets(lab, False)


async def case_websocket_over_tls_to_an_https_upstream(lab):
    await websockets(lab, True)
