"""The window that a user of a Python engine writes by hand: one bucket a minute, of eleven.

A bucket is [minute, count, sum, min, max]; a user's state is the list of those that are in the
window, oldest first, which JSON holds as it is.
"""

MINUTE = 60_000
MINUTES = 10


def update(buckets, payment):
    """Count a payment (a dict), forget what has left the window; the features, as a record."""
    amount, minute = payment["amount"], payment["ts"] // MINUTE
    while buckets and buckets[0][0] < minute - MINUTES:
        del buckets[0]
    if buckets and buckets[-1][0] == minute:
        last = buckets[-1]
        last[1] += 1
        last[2] += amount
        last[3] = min(last[3], amount)
        last[4] = max(last[4], amount)
    else:
        buckets.append([minute, 1, amount, amount, amount])
    count = sum([b[1] for b in buckets])
    total = sum([b[2] for b in buckets])
    return {
        "user": payment["user"],
        "ts": payment["ts"],
        "count": count,
        "sum": total,
        "mean": total / count,
        "min": min([b[3] for b in buckets]),
        "max": max([b[4] for b in buckets]),
    }
