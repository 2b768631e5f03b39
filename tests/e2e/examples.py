"""The examples, as their READMEs say that they are used."""
import os
import subprocess
import sys

from harness import equal, poll, skip

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class telemetry:
    """The program of examples/telemetry on a directory of the test's."""

    def __init__(self, t, program):
        self.out_path = os.path.join(t.directory, "telemetry.out")
        with open(self.out_path, "wb") as out:
            self.process = subprocess.Popen([program, os.path.join(t.directory, "devices"), "0"], stdout=out,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        poll("telemetry listens", lambda: self.process.poll() is not None or "amqp://" in self.output(), 30, 0.01)
        self.port = self.output().strip().rpartition(":")[2]

    def output(self):
        with open(self.out_path, encoding="utf-8") as out:
            return out.read()

    def send_readings(self):
        script = os.path.join(ROOT, "examples", "telemetry", "send_readings.py")
        done = subprocess.run([sys.executable, script, self.port], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    def end(self, kill):
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        return self.process.wait(30)


def test_telemetry_a_python_script_talks_to_durable_actors(t):
    if not t.suite.options.examples:
        raise skip("no --examples given")
    program = os.path.join(os.path.abspath(t.suite.options.examples), "telemetry", "telemetry")
    for round_, killed in enumerate((True, False, False), 1):
        running = telemetry(t, program)
        try:
            lines = running.send_readings()
            equal([line.split(",")[0] for line in lines], [f"serial-{n}: {10 * round_} readings" for n in range(3)])
            equal(lines[0].split(", ", 1)[1], "mean 33.5, highest 47.0")
        finally:
            code = running.end(killed)
        equal(code, -9 if killed else 0)
