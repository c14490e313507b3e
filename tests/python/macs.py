"""Prints keys and challenges with their MACs, in hexadecimal, one case a line.

usage: macs.py CASES SEED
"""

import hmac
import random
import sys

cases, seed = int(sys.argv[1]), int(sys.argv[2])
source = random.Random(seed)
for _ in range(cases):
    # Up to twice a block, since longer keys are hashed first.
    key = source.randbytes(source.randint(1, 130))
    challenge = source.randbytes(32)
    macs = [hmac.new(key, challenge, name).digest() for name in ("md5", "sha256")]
    print(*(part.hex() for part in (key, challenge, *macs)))
