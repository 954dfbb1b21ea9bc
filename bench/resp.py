"""A small Redis client, for setting the stage and for asking what happened."""

import socket
import threading


class Client:
    def __init__(self, port, timeout=120):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.file = self.socket.makefile("rb", 1 << 16)

    def ask(self, *words):
        request = b"*%d\r\n" % len(words)
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            request += b"$%d\r\n%b\r\n" % (len(word), word)
        self.socket.sendall(request)
        return self.reply()

    def reply(self):
        header = self.file.readline()
        kind, rest = header[:1], header[1:-2]
        if kind == b"-" or not header:
            raise RuntimeError(rest.decode() or "the connection was closed")
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind in (b"*", b"%"):
            count = int(rest) * (2 if kind == b"%" else 1)
            return [self.reply() for _ in range(count)]
        return int(rest) if kind == b":" else rest

    def info(self, section):
        """The section's fields, as text."""
        lines = self.ask("INFO", section).decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self):
        self.file.close()
        self.socket.close()


def listen_to_broadcasts(port):
    """Attaches a client that hears of every change, as a proxy's link does, and does nothing with it."""
    client = Client(port, timeout=None)
    client.ask("HELLO", "3")
    client.ask("CLIENT", "TRACKING", "ON", "BCAST")

    def swallow():
        sink = bytearray(1 << 18)
        try:
            while client.socket.recv_into(sink):
                pass
        except OSError:
            pass  # the server is gone, and this with it

    threading.Thread(target=swallow, daemon=True).start()
