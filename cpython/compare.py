"""compare.py REAL.json SALT.json: what passes on CPython and not on saltecho, and `N of M`."""
import json
import sys

real, salt = (json.load(open(path)) for path in sys.argv[1:3])
good = [test for test in real if real[test]["outcome"] == "pass"]
passed = 0
for test in good:
    result = salt.get(test, {"outcome": "absent", "detail": ""})
    if result["outcome"] == "pass":
        passed += 1
        continue
    last = (result["detail"].strip().splitlines() or [""])[-1]
    print(f"{test.split('.', 1)[1]}: {result['outcome']}: {last[:160]}")
print(passed, "of", len(good))
