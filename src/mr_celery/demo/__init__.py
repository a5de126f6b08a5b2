"""The command ``mr-celery demo``: a complete installation on this machine, in half a minute."""
