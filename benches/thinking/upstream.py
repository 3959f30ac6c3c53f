"""An upstream that thinks: PORT, and the seconds until it says a word."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = (
    'data: {{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    '[{{"index":0,"delta":{{"content":"{}"}},"finish_reason":null}}]}}\n\n'
)


class Thinks(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(float(sys.argv[2]))
        body = "".join(CHUNK.format(word) for word in ("It ", "is ", "42.")) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """The one that was not waited for."""


Server(("127.0.0.1", int(sys.argv[1])), Thinks).serve_forever()
