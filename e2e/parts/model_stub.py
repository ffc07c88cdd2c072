#!/usr/bin/env python3
"""Stands in for the Anthropic Messages API on a free loopback port, so that the real CLI runs without a network.

usage: model_stub.py PORT_FILE

The port is written to PORT_FILE. The first answer of a conversation asks for one Bash call (`echo hi`), the next ends the
turn. Every answer reports the same usage: 120 input, 900 cache read, 30 cache creation and 25 output tokens.
"""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"input_tokens": 120, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 900, "output_tokens": 1}
TOOL = {"type": "tool_use", "id": "toolu_stub", "name": "Bash", "input": {"command": "echo hi", "description": "say hi"}}
TEXT = {"type": "text", "text": "pong"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, content, media_type="application/json", status=200):
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("request-id", "req_stub")
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer(b"{}", status=404)

    def do_HEAD(self):
        self.answer(b"")

    def do_POST(self):
        request = json.loads(self.body() or b"{}")
        path = self.path.split("?")[0]
        if path.endswith("/count_tokens"):
            self.answer(b'{"input_tokens": 42}')
        elif path.endswith("/v1/messages"):
            self.message(request)
        else:
            self.answer(b"{}", status=404)

    def message(self, request):
        tools = {tool.get("name") for tool in request.get("tools", [])}
        asks_for_tool = "Bash" in tools and '"tool_result"' not in json.dumps(request["messages"])
        block, reason = (TOOL, "tool_use") if asks_for_tool else (TEXT, "end_turn")
        message = {"id": "msg_stub", "type": "message", "role": "assistant", "model": request.get("model"),
                   "content": [], "stop_reason": None, "stop_sequence": None, "usage": USAGE}
        done = {"stop_reason": reason, "stop_sequence": None}
        usage = dict(USAGE, output_tokens=25)
        if not request.get("stream"):
            self.answer(json.dumps(dict(message, content=[block], usage=usage, **done)).encode())
            return
        if block is TOOL:
            start = dict(TOOL, input={})
            delta = {"type": "input_json_delta", "partial_json": json.dumps(TOOL["input"])}
        else:
            start = dict(TEXT, text="")
            delta = {"type": "text_delta", "text": TEXT["text"]}
        events = [{"type": "message_start", "message": message},
                  {"type": "content_block_start", "index": 0, "content_block": start},
                  {"type": "content_block_delta", "index": 0, "delta": delta},
                  {"type": "content_block_stop", "index": 0},
                  {"type": "message_delta", "delta": done, "usage": usage},
                  {"type": "message_stop"}]
        lines = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        self.answer(lines.encode(), "text/event-stream")

    def log_message(self, *_):
        pass


if len(sys.argv) != 2:
    sys.exit(__doc__)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
# Renamed into place: who waits for the file never reads half a number.
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
