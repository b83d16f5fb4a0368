"""What RQ's workers run: they import it by its name."""

TRIES = []


def square(n):
    return n * n


def flaky():
    """Fails twice, then is done."""
    TRIES.append(len(TRIES))
    if len(TRIES) < 3:
        raise RuntimeError(f"try {len(TRIES)} fails")
    return len(TRIES)


def fails():
    raise ValueError("broken")
