"""Reads an HdrHistogram interval log with the Python reader, and adds it up by tag.

Prints, for each tag given: tag, count, p50, p99.9 and the largest, in whole nanoseconds.
"""
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

path, *tags = sys.argv[1:]
HOUR = 3600 * 10**9
sums = {}
reader = HistogramLogReader(path, HdrHistogram(1, HOUR, 3))
while (interval := reader.get_next_interval_histogram()) is not None:
    tag = interval.get_tag()
    sums.setdefault(tag, HdrHistogram(1, HOUR, 3)).add(interval)
for tag in tags:
    total = sums[tag]
    print(
        tag,
        total.get_total_count(),
        total.get_value_at_percentile(50),
        total.get_value_at_percentile(99.9),
        total.get_max_value(),
    )
