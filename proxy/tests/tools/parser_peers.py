#!/usr/bin/env python3
"""What nginx and HAProxy make of the parser tables in proxy/tests/it/parser.

    parser_peers.py TABLE...           prints their answers
    parser_peers.py --write TABLE...   writes them into the tables, as comments of the rows
    parser_peers.py --draft TABLE...   prints the tables with what target/debug/sse-guard answers, for new rows:
                                       read each of its lines before you believe it

Both peers are configured as in benches/peers, as far as it concerns one request. The format of the tables is
described in proxy/tests/it/parser/table.rs.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../../..")
PEERS = ("nginx", "HAProxy")
# No more comes behind this pause, nearly always. Run it again if the machine is busy.
QUIET = float(os.environ.get("QUIET", "0.25"))
OWN = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"

NGINX = """
daemon off; worker_processes 1; pid RUN/pid; error_log stderr crit;
events { worker_connections 512; }
http {
    access_log off; proxy_temp_path RUN/proxy; client_body_temp_path RUN/body; fastcgi_temp_path RUN/f;
    uwsgi_temp_path RUN/u; scgi_temp_path RUN/s;
    upstream origin { server ORIGIN; keepalive 64; }
    server {
        listen LISTEN;
        location / {
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off; gzip off; proxy_next_upstream off;
        }
    }
}
"""

HAPROXY = """
global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    timeout http-request 10s
    option forwardfor
frontend in
    bind LISTEN
    default_backend origin
backend origin
    http-reuse safe
    server origin ORIGIN
"""


class Row:
    """A row as it stands in its file."""

    def __init__(self, lines):
        self.lines = lines
        self.name = lines[0].strip()[1:-1]
        words = [line[2:].split() for line in lines if line.startswith("! ")]
        self.flags = [word for line in words for word in line]
        self.sent = joined(lines, ">")
        self.got = joined(lines, "<")

    def text(self, comments, more=()):
        """The row with these comments in place of those of the peers."""
        old = tuple(f"# {peer}: " for peer in PEERS)
        kept = [line for line in self.lines if not line.startswith(old)]
        while kept and not kept[-1].strip():
            kept.pop()
        return "\n".join([*kept, *more, *comments]) + "\n"


def joined(lines, mark):
    return b"".join(unescaped(line[1:].removeprefix(" ")) for line in lines if line.startswith(mark))


def unescaped(line):
    """The bytes of a line of the table."""
    end = b"\r\n"
    out = bytearray()
    place = 0
    if line.endswith("\\") and not line.endswith("\\\\"):
        line, end = line[:-1], b""
    simple = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}
    while place < len(line):
        char = line[place]
        if char != "\\":
            out += char.encode()
            place += 1
            continue
        kind = line[place + 1]
        if kind == "x":
            out.append(int(line[place + 2 : place + 4], 16))
            place += 4
        elif kind == "{":
            close = line.index("}", place)
            what, count = line[place + 2 : close].rsplit("*", 1)
            out += unescaped(what + "\\") * int(count)
            place = close + 1
        else:
            out += simple[kind]
            place += 2
    return bytes(out) + end


def escaped(data, mark):
    """Lines of the table for these bytes."""
    lines = data.split(b"\r\n")
    ends = [""] * (len(lines) - 1) + ["\\"]
    if not lines[-1]:
        lines, ends = lines[:-1], ends[:-1]
    return [(f"{mark} " + one_line(line) + end).rstrip(" ") for line, end in zip(lines, ends)]


def one_line(data):
    out = ""
    for byte in data:
        char = chr(byte)
        named = {"\r": "\\r", "\n": "\\n", "\t": "\\t", "\\": "\\\\"}
        out += named.get(char) or (char if 32 <= byte < 127 else f"\\x{byte:02x}")
    out = re.sub(r"(.)\1{79,}", lambda run: f"\\{{{run[1]}*{len(run[0])}}}", out)
    return re.sub(r"^ | $", r"\\x20", out)


def read_table(path):
    """The text ahead of the first row, and the rows."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    starts = [place for place, line in enumerate(lines) if line.startswith("[")] + [len(lines)]
    rows = [Row(lines[start:end]) for start, end in zip(starts, starts[1:])]
    return lines[: starts[0]], rows


def read_message(read, is_response, method=b"GET"):
    """The bytes of the next message, and whether it has its end."""
    data = b""
    while b"\r\n\r\n" not in data.lstrip(b"\r\n"):
        more = read()
        if not more:
            return data, False
        data += more
    head = data[: data.index(b"\r\n\r\n") + 4].lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head)
    bodiless = is_response and (method == b"HEAD" or head[9:12] in (b"204", b"304") or head[9:10] == b"1")
    while not bodiless:
        body = data[len(head) :]
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            if re.search(rb"(^|\r\n)0\r\n(.+\r\n)*\r\n$", body):
                break
        elif len(body) >= (int(length[1]) if length else 0):
            break
        more = read()
        if not more:
            return data, False
        data += more
    return data, True


class Origin:
    """Records what comes, and answers each request; the first one by the bytes of a row, if there are any."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.seen = b""
        self.answer = None
        self.closes = False
        self.connections = 0
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self.open.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def close_all(self):
        """No peer has an idle connection left then."""
        connections, self.open = self.open, []
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve(self, connection):
        def read():
            try:
                byte = connection.recv(1)
            except OSError:
                return b""
            self.seen += byte
            return byte

        try:
            while True:
                request, is_whole = read_message(read, False)
                if not is_whole:
                    break
                answer, self.answer = self.answer, None
                if answer is not None:
                    connection.sendall(answer)
                    if self.closes:
                        break
                    continue
                answer = OWN.encode()
                connection.sendall(answer[: -3 if request.startswith(b"HEAD") else None])
        except OSError:
            pass
        connection.close()


def exchange(address, data, half, method=b"GET"):
    """What comes back: the bytes, and whether the connection was closed."""
    host, port = address.split(":")
    client = socket.create_connection((host, int(port)))
    threading.Thread(target=send, args=(client, data, half), daemon=True).start()
    client.settimeout(QUIET)
    seen, closed = b"", False
    try:
        while True:
            more = client.recv(65536)
            if not more:
                closed = True
                break
            seen += more
    except TimeoutError:
        pass
    except OSError:
        closed = True
    client.close()
    return seen, closed


def send(client, data, half):
    try:
        client.sendall(data)
        if half:
            client.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def statuses(data, sent):
    """The statuses of all responses in `data`."""
    found = []
    methods = re.findall(rb"(?:^|\n)([A-Z]+) ", sent)
    while data:
        method = methods[min(len([f for f in found if f[0] != "1"]), len(methods) - 1)] if methods else b"GET"
        place = 0

        def read():
            nonlocal place
            place += 1
            return data[place - 1 : place]

        message, _ = read_message(read, True, method)
        match = re.match(rb"HTTP/1\.[01] (\d{3})", message)
        found.append(match[1].decode() if match else "body")
        if not match:
            break
        data = data[len(message) :]
    return found


# What the proxies add, or what a test's fields always are.
ADDED = {
    "sse-guard": rb"(x-request-id|forwarded|x-forwarded-(for|proto|host)): [^\r]*\r\n",
    "nginx": rb"(X-Forwarded-For|Connection): [^\r]*\r\n",
    "HAProxy": rb"(x-forwarded-for|connection): [^\r]*\r\n",
}
# Of responses.
VARYING = rb"(date|server|x-request-id|connection|keep-alive): [^\r]*\r\n"


def comparable(message):
    """The parts of a message without the case and order of its fields."""
    head, _, body = message.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    fields = [re.sub(rb"^[^:]*", lambda name: name[0].lower(), field) for field in fields]
    fields = [field for field in fields if not re.match(rb"(connection|x-forwarded-for):", field)]
    return first, sorted(fields), body


def view(data, other):
    """What reached the other side in one line; how it differs from what `other` has."""
    if not data:
        return "nothing"
    if comparable(data) == comparable(other):
        return "as here"
    text = " | ".join(one_line(line) for line in data.rstrip(b"\r\n").split(b"\r\n"))
    return text if len(text) < 150 else text[:120] + "..." + text[-20:]


class Peer:
    def __init__(self, name, run):
        self.name, self.origin = name, Origin()
        free = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % free.getsockname()[1]
        free.close()
        folder = os.path.join(run, name)
        os.makedirs(folder, exist_ok=True)
        config = os.path.join(folder, "config")
        template = {"nginx": NGINX, "HAProxy": HAPROXY}.get(name, "")
        text = template.replace("LISTEN", self.address).replace("ORIGIN", self.origin.address)
        with open(config, "w", encoding="utf-8") as file:
            file.write(text.replace("RUN", folder))
        guard = os.path.join(ROOT, "target/debug/sse-guard")
        flags = ["--upstream-url", "http://" + self.origin.address, "--listen", self.address, "--admin-listen", "off"]
        command = {
            "nginx": ["nginx", "-p", folder, "-c", config],
            "HAProxy": ["haproxy", "-q", "-f", config],
            "sse-guard": [guard, *flags, "--heartbeat-immediate=false"],
        }[name]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                host, port = self.address.split(":")
                socket.create_connection((host, int(port))).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} does not start")

    def request_row(self, row):
        self.origin.seen = b""
        half = "half" in row.flags
        data, closed = exchange(self.address, row.sent, half)
        seen = re.sub(ADDED[self.name], b"", self.origin.seen)
        return statuses(data, row.sent), "close" if closed else "open", seen

    def response_row(self, row):
        methods = [flag for flag in row.flags if flag.isupper()]
        method = (methods or ["GET"])[0]
        origin = self.origin
        # On a connection of its own, without leftovers of the row before.
        origin.close_all()
        time.sleep(QUIET / 2)
        origin.answer, origin.closes, origin.connections = row.sent, "close" in row.flags, 0
        request = f"{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()
        data, closed = exchange(self.address, request, False, method.encode())
        before = origin.connections
        exchange(self.address, b"GET /probe HTTP/1.1\r\nHost: a.test\r\n\r\n", False)
        kept = "kept" if origin.connections == before else "gone"
        return statuses(data, request), "close" if closed else "open", kept, re.sub(VARYING, b"", data, flags=re.I)


def versions():
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    haproxy = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"nginx/([\d.]+)", nginx)[1], re.search(r"version ([\d.]+)", haproxy)[1]
    return f"# Peers: nginx {found[0]}, HAProxy {found[1]}, measured by proxy/tests/tools/parser_peers.py."


def comment(peer, row, is_response):
    if is_response:
        found, end, kept, seen = peer.response_row(row)
        what = view(seen, row.got)
        return f"# {peer.name}: {' '.join(found) or 'nothing'} {end}, {kept}" + (f"; {what}" if seen else "")
    found, end, seen = peer.request_row(row)
    reached = f"; upstream: {view(seen, row.got)}" if seen else ""
    return f"# {peer.name}: {' '.join(found) or 'nothing'} {end}{reached}"


def draft(peer, row, is_response):
    if is_response:
        found, end, kept, seen = peer.response_row(row)
        return [*escaped(seen, "<"), f"= {' '.join(found)} {end} {kept}"]
    found, end, seen = peer.request_row(row)
    return [*escaped(seen, "<"), f"= {' '.join(found)} {end}".replace("  ", " ")]


def main():
    mode = sys.argv[1] if sys.argv[1:2] in (["--write"], ["--draft"]) else ""
    tables = sys.argv[2 if mode else 1 :]
    run = tempfile.mkdtemp()
    names = ["sse-guard"] if mode == "--draft" else PEERS
    peers = [Peer(name, run) for name in names]
    try:
        for path in tables:
            is_response = "responses" in path
            head, rows = read_table(path)
            head = [line for line in head if not line.startswith("# Peers: ")]
            while head and not head[-1]:
                head.pop()
            out = "\n".join([*head, *([] if mode == "--draft" else [versions()])]) + "\n"
            for row in rows:
                if mode == "--draft":
                    # Rows with an expectation stay as they are.
                    done = any(line.startswith("= ") for line in row.lines)
                    out += "\n" + row.text([], [] if done else draft(peers[0], row, is_response))
                    continue
                comments = [comment(peer, row, is_response) for peer in peers]
                out += "\n" + row.text(comments)
            if mode == "--write":
                with open(path, "w", encoding="utf-8") as file:
                    file.write(out)
            else:
                print(out)
    finally:
        for peer in peers:
            peer.process.terminate()
            peer.process.wait()
        shutil.rmtree(run)


main()
