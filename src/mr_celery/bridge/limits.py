"""The numbers that a bridge works with, each with its unit and its reason.

They are not settings, because they suit any installation. Numbers that nobody would change stand in the line that uses
them.
"""

from __future__ import annotations

# -- how much at once ----------------------------------------------------------------------------------------

CONCURRENT_CLAIMS = 24
"""Concurrent claims of a process. A claim takes a round trip to the server, so this hides its latency."""

CONCURRENT_DELIVERIES = 8
"""Concurrent deliveries of a process while the server works. Each may hold a large artifact."""

CONCURRENT_REPORTS = 12
"""Concurrent presence reports of a process, so that those of many worker names do not wait for each other.

With a server that takes 50 ms for a response, 1 000 worker names need ten for an interval of 5 s.
"""

SLOW_DELIVERIES = 8
"""Deliveries that the server reads slowly and that do not count toward :data:`CONCURRENT_DELIVERIES`.

If there are more of them and other deliveries have to wait, the newest slow ones are put off.
"""

REFUSED_SLOTS = 8
"""Maximum number of jobs in flight that are claimed only to close them as failed, since no handler takes them."""

MOST_REMEMBERED = 10_000
"""Maximum number of routes, or of destinations, kept in memory, for routers that create ever new queues."""

# -- how often -----------------------------------------------------------------------------------------------

CHECK_SECONDS = 1.0
"""Interval, in seconds, of cheap checks for changes that send no notification, or whose notification may be lost.

It is at most a third of the shortest lease, so that leases are renewed in time.
"""

PROBE_SECONDS = 10.0
"""Interval, in seconds, of requests that do not advance a job.

These are checks of a destination that the broker has refused, or that it could not check while it was unreachable,
and polls that only count the pending jobs.
"""

SHORTEST_POLL = 0.25
"""Shortest pause, in seconds, between two polls of the inbox: at most four a second, however fast jobs arrive."""

POLL_GROWTH = 0.25
"""The pause between two polls as a fraction of the time since a poll last found a new job.

With 0.25, a job that arrives at random waits on average for an eighth of the time since the previous job. The pauses
reach a poll interval of 5 s after 20 s without a job.
"""

POLL_WORK = 10.0
"""Minimum pause between two polls as a multiple of a poll's CPU time: long lists use at most a tenth of a core."""

LIST_WORK = 50.0
"""Time for which a list may be used without reading it again, as a multiple of the CPU time of reading it."""

# -- how long ------------------------------------------------------------------------------------------------

CLAIM_LEASE = 5.0
"""Lease of a claim in progress, in seconds. It is renewed until the claim ends, so it matters only after a crash."""

UNCLEAR_SECONDS = 120.0
"""Seconds for which a claim with an unclear result may still appear in the server's lists."""

PUBLISH_TIMEOUT = 5.0
"""Timeout, in seconds, for each response of the broker."""

ROUTING_SECONDS = 2.0
"""Time limit, in seconds, for an application's routers, and for the calls of a ``match=`` that raise, during one poll.

Further jobs wait for the next poll.
"""

ROUTE_SECONDS = 60.0
"""Seconds for which a router's result is used while its job waits, and after which a problem with a route is over."""

# -- how careful ---------------------------------------------------------------------------------------------

LONGEST_PAUSE = 30.0
"""Longest pause, in seconds, that a bridge makes on its own account.

A server or broker in trouble is tried again by then, and a loop whose wake-up was lost looks for work.
"""

LONGEST_IMPOSED_PAUSE = 60.0
"""Longest pause, in seconds, that the server imposes, by a ``Retry-After`` or by lists that take long to read."""

LASTING = 3
"""Consecutive failures from which they are reported as lasting: of a loop, or 401 and 403 responses to the token.

Fewer of them may be a short fault of the server.
"""

TRIAL_SECONDS = 60.0
"""Seconds after a refused message until one job is claimed to try the destination again. That job may fail."""

# -- when something is lost ----------------------------------------------------------------------------------

MISSES = 2
"""Consecutive comparisons in which a job must be missing before it counts as aborted: one list may be wrong."""

LOOKUPS = 20
"""Maximum number of missing jobs in one comparison about which the server is asked one by one."""

SILENT_SECONDS = 60.0
"""Seconds after which a missing job counts as aborted even if all lists are empty, which may be a server fault."""

OVERTAKEN_SECONDS = 120.0
"""A message counts as lost once one of its queue that was sent this many seconds later has started."""

MEMBER_OVERTAKEN_SECONDS = 900.0
"""As above, for a member of a workflow. It is longer, because the job then begins again."""

SILENT_QUEUE_SECONDS = 600.0
"""A message in a queue with others is sent again if no message of the queue has started for this many seconds."""

SWEEP_AGE = 7200.0
"""Minimum age, in seconds, of a spool file to remove: its run may not have recorded its outcome yet."""
