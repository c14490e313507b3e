"""Runs the unittest names of stdin and writes a JSON line per event into the file argv[2].

worker.py real|salt EVENTS-FILE [list MODULE]
"""
import json
import os
import sys
import tempfile
import time
import traceback
import unittest

which, events, options = sys.argv[1], open(sys.argv[2], "a", buffering=1), sys.argv[3:]
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
if which == "salt":
    import saltsock
    saltsock.install()


def made():
    return saltsock.made if which == "salt" else 0


def emit(**event):
    print(json.dumps(event), file=events)


def text_of(error):
    return "".join(traceback.format_exception(*error))[-3000:]


class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.detail = "pass", ""
        self.began, self.made = time.monotonic(), made()
        emit(start=test.id())

    def _set(self, outcome, detail):
        if self.outcome in ("pass", "skip"):
            self.outcome, self.detail = outcome, detail

    def addError(self, test, error):
        if isinstance(test, unittest.TestCase):
            self._set("error", text_of(error))
        else:
            emit(test=str(test), outcome="setup-error", detail=text_of(error))

    def addFailure(self, test, error):
        self._set("fail", text_of(error))

    def addSkip(self, test, reason):
        if isinstance(test, unittest.TestCase):
            self._set("skip", reason)
        else:
            emit(test=str(test), outcome="setup-skip", detail=reason)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self._set("fail", f"{subtest}: {text_of(error)}")

    def stopTest(self, test):
        emit(test=test.id(), outcome=self.outcome, detail=self.detail,
             seconds=round(time.monotonic() - self.began, 3), sockets=made() - self.made)
        super().stopTest(test)


def walk(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from walk(test)
        else:
            yield test


def main():
    os.chdir(tempfile.mkdtemp(prefix="salt-test-"))
    load = unittest.defaultTestLoader.loadTestsFromName
    if options[:1] == ["list"]:
        for test in walk(load(options[1])):
            emit(listed=test.id())
        return
    names = sys.stdin.read().split()
    from test import support
    support.use_resources = []
    unittest.TestSuite(load(name) for name in names).run(Result())
    emit(done=True)
    events.close()
    # A test's thread may still wait for ever.
    os._exit(0)


main()
