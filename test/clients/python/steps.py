"""Runs the steps of one client's walk and prints a line for each: check clients.CLIENT_STEP ok|FAIL.

A step that fails ends the walk, for later steps stand on earlier ones; what was registered with `undo` runs all the same,
last first, so that one client's failure leaves nothing that the next client could trip over.
"""

import time
import traceback


class Walk:
    def __init__(self, client):
        self.client = client
        self.undos = []

    def undo(self, call, *args, **kwargs):
        """Registers what takes back something that the walk made. Its errors are ignored: the walk may have done it."""
        self.undos.append((call, args, kwargs))

    def run(self, *steps):
        begun = time.monotonic()
        try:
            for step in steps:
                self.step(step)
        except Exception:
            traceback.print_exc()
            self.say("", "FAIL")
            return 1
        finally:
            self.take_back()
        self.say("", f"ok ({len(steps)} steps, {time.monotonic() - begun:.0f} s)")
        return 0

    def step(self, step):
        name = "_" + step.__name__
        try:
            step()
        except Exception as e:
            self.say(name, f"FAIL {type(e).__name__}: {e}")
            raise
        self.say(name, "ok")

    def take_back(self):
        for call, args, kwargs in reversed(self.undos):
            try:
                call(*args, **kwargs)
            except Exception:
                continue

    def say(self, step, result):
        print(f"check clients.{self.client}{step} {result}", flush=True)


def expect(condition, *seen):
    """Fails the step, with what was seen."""
    if not condition:
        raise AssertionError(" ".join(str(s) for s in seen))


def same(got, want, what=""):
    expect(got == want, what, "got", repr(got), "want", repr(want))


def eventually(condition, what, limit_s=60):
    """Waits for what no waiter of the client covers."""
    deadline = time.monotonic() + limit_s
    while not condition():
        expect(time.monotonic() < deadline, what, f"not within {limit_s} s")
        time.sleep(0.2)
