"""Runs CPython's own tests; each has its result, also one that hangs or crashes.

run.py real|salt OUT.json [--limit SECONDS] MODULE-OR-CLASS-OR-TEST...
"""
import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def start(which, events, *options, **pipes):
    command = [sys.executable, os.path.join(HERE, "worker.py"), which, events, *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, **pipes)


def events_of(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def list_tests(which, name):
    with tempfile.NamedTemporaryFile("r") as f:
        process = start(which, f.name, "list", name, stderr=subprocess.PIPE)
        error = process.communicate()[1]
        if process.returncode:
            sys.exit(error)
        return [event["listed"] for event in events_of(f.name)]


def run_once(which, tests, limit):
    """The events, whether a test went on without one for `limit` seconds, and the end of stderr."""
    with tempfile.NamedTemporaryFile("r") as f, tempfile.TemporaryFile("w+") as err:
        process = start(which, f.name, stdin=subprocess.PIPE, stderr=err)
        process.stdin.write("\n".join(tests))
        process.stdin.close()
        size, since, hung = 0, time.monotonic(), False
        while process.poll() is None:
            time.sleep(0.02)
            now = os.path.getsize(f.name)
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > limit:
                hung = True
                process.kill()
                process.wait()
        err.seek(0)
        return events_of(f.name), hung, err.read()[-1500:]


def run_class(which, tests, limit):
    """Results of these tests; goes on behind one that hangs or crashes."""
    results, rest = {}, tests
    while rest:
        events, hung, tail = run_once(which, rest, limit)
        current, setup = None, []
        for event in events:
            if "start" in event:
                current = event["start"]
            elif event.get("outcome", "").startswith("setup"):
                setup.append(event)
            elif "test" in event:
                results[event["test"]] = event
                current = None
        if current is not None:
            outcome = "hang" if hung else "crash"
            results[current] = {"test": current, "outcome": outcome, "detail": tail}
        before, rest = rest, [test for test in rest if test not in results]
        if {"done": True} in events or len(rest) == len(before):
            skipped = setup and setup[0]["outcome"] == "setup-skip"
            outcome = "skip" if skipped else "notrun"
            detail = "; ".join(f"{e['outcome']} {e['detail'][-700:]}" for e in setup) or tail
            results |= {t: {"test": t, "outcome": outcome, "detail": detail} for t in rest}
            break
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=["real", "salt"])
    parser.add_argument("out")
    parser.add_argument("--limit", type=float, default=30.0)
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    classes = collections.defaultdict(list)
    for name in args.names:
        for test in list_tests(args.which, name):
            classes[test.rsplit(".", 1)[0]].append(test)
    results = {}
    for name, tests in classes.items():
        got = run_class(args.which, tests, args.limit)
        results |= got
        counts = collections.Counter(result["outcome"] for result in got.values())
        print(f"{name.split('.', 1)[-1]:60}", dict(counts), flush=True)
        with open(args.out, "w") as f:
            json.dump(results, f, indent=1)


main()
