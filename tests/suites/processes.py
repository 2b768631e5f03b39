"""Programs that a test starts, whose lines it waits for; and a relay between client and broker that can be cut."""
import os
import signal
import socket
import subprocess
import threading

from harness import poll, require


class program:
    """A process in a group of its own, and the lines that it has printed (standard error among them)."""

    def __init__(self, bench, command, environment=None, cwd=None):
        self.command, self.lines = command, []
        self.process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, cwd=cwd,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, errors="replace", start_new_session=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        bench.programs.append(self)
        bench.on_exit(self.kill)

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, text, times=1):
        return sum(text in line for line in self.lines) >= times

    def text(self):
        return "\n".join(self.lines[-40:])

    def wait_for(self, text, times=1, timeout=30.0):
        """Waits until it has printed the text that often."""
        try:
            poll(f"{self.command[-1]} prints {text!r} {times} time(s)",
                 lambda: self.said(text, times) or self.process.poll() is not None, timeout)
        except AssertionError as late:
            raise AssertionError(f"{late}; it printed:\n{self.text()}") from None
        if not self.said(text, times):
            self.reader.join(5)
        require(self.said(text, times), f"it ended without printing {text!r}:\n{self.text()}")

    def ends(self, timeout=30.0, code=0):
        """Waits for its end, and returns all that it printed."""
        try:
            ended = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} did not end within {timeout:g} s:\n{self.text()}") from None
        self.reader.join(5)
        require(ended == code, f"{self.command} ended with {ended}:\n{self.text()}")
        return "\n".join(self.lines)

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def kill(self):
        """SIGKILL for the process and all that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class relay:
    """Passes bytes on between a port of its own and the broker's, until it is told to cut all connections."""

    def __init__(self, bench, port):
        self.target, self.pairs, self.taken = port, [], 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        bench.on_exit(self.close)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            with self.lock:
                self.pairs.append((client, broker))
                self.taken += 1
            for source, sink in ((client, broker), (broker, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Breaks what is connected now. New connections are taken at once."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for each in pair:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                each.close()

    def close(self):
        self.listener.close()
        self.cut()
