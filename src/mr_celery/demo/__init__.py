"""``mr-celery demo``: the whole thing at work, on this machine, in half a minute."""
