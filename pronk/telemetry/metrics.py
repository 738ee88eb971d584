"""Every metric of the system: names, labels and units in one place.

Prefix `pronk_`, base units, `_total` on counters; labels are bounded (no member, no version).
"""

import shutil
from contextlib import suppress
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from pronk.errors import Misconfigured

# Actor
ACTOR_BUSY_SECONDS = Counter("pronk_actor_busy_seconds", "Stepping environments and inference.")
ACTOR_BLOCKED_SECONDS = Counter(
    "pronk_actor_blocked_seconds", "Waiting for room in the buffer, or for a policy."
)
FRAMES_PRODUCED = Counter(
    "pronk_frames_produced", "Environment frames played for training.", ["policy"]
)
UNROLLS_SENT = Counter("pronk_unrolls_sent", "Unrolls added to the buffer.", ["policy"])
ENVIRONMENT_FAILURES = Counter(
    "pronk_environment_failures", "Environments that failed and were replaced.", ["reason"]
)
POLICIES_ADOPTED = Counter("pronk_policies_adopted", "Versions an actor began to act with.")
POLICIES_REFUSED = Counter(
    "pronk_policies_refused", "Versions an actor would not act with.", ["reason"]
)
FETCH_SECONDS = Histogram(
    "pronk_fetch_seconds",
    "From the news of a version to having all its blobs.",
    ["policy"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
PREPARE_SECONDS = Histogram(
    "pronk_prepare_seconds",
    "Making an engine of a version and checking its fingerprint.",
    ["policy"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
EPISODE_RETURN = Histogram(
    "pronk_episode_return",
    "Return of finished episodes.",
    ["policy", "task", "lane"],
    buckets=(-1000, -300, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300, 1000),
)

# Buffer
BUFFER_LENGTH = Gauge("pronk_buffer_length", "Unrolls waiting.", ["policy"])
BUFFER_BYTES = Gauge("pronk_buffer_bytes", "Bytes waiting.", ["policy"])
BUFFER_CAPACITY = Gauge("pronk_buffer_capacity", "Unrolls that may wait.", ["policy"])
BUFFER_CAPACITY_BYTES = Gauge("pronk_buffer_capacity_bytes", "Bytes that may wait.", ["policy"])
BUFFER_ADD_SECONDS = Histogram(
    "pronk_buffer_add_seconds",
    "Giving one unroll to the buffer, waits for room left out.",
    ["policy"],
    buckets=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
REDIS_UP = Gauge("pronk_redis_up", "1 while the buffer's server answers the learner, else 0.")
REDIS_MEMORY_BYTES = Gauge("pronk_redis_memory_bytes", "Memory that the buffer's server uses.")
REDIS_MEMORY_CAP_BYTES = Gauge(
    "pronk_redis_memory_cap_bytes", "Memory that the buffer's server may use; 0: no cap."
)
UNROLLS_DUPLICATE = Counter(
    "pronk_unrolls_duplicate", "Unrolls that the buffer had seen already.", ["policy"]
)
UNROLLS_CLAIMED = Counter(
    "pronk_unrolls_claimed", "Unrolls taken over from learners that went away.", ["policy"]
)
UNROLLS_DROPPED = Counter(
    "pronk_unrolls_dropped", "Unrolls delivered too often without being trained.", ["policy"]
)

# Learner
LEARNER_BUSY_SECONDS = Counter("pronk_learner_busy_seconds", "Computing updates.", ["policy"])
LEARNER_WAITING_SECONDS = Counter("pronk_learner_waiting_seconds", "Waiting for data.", ["policy"])
FRAMES_CONSUMED = Counter(
    "pronk_frames_consumed", "Frames of valid rows, once each, in an applied update.", ["policy"]
)
UPDATES = Counter("pronk_updates", "Applied updates.", ["policy"])
UPDATES_SKIPPED = Counter(
    "pronk_updates_skipped", "Updates that were not applied.", ["policy", "reason"]
)
UNROLLS_REFUSED = Counter(
    "pronk_unrolls_refused", "Unrolls that could not be used.", ["policy", "reason"]
)
LAG = Histogram(
    "pronk_lag",
    "Learner version at training minus behaviour version, mean per unroll.",
    ["policy"],
    buckets=(0, 1, 2, 3, 5, 10, 20, 50, 100, 300, 1000),
)
RETURN_MEAN = Gauge("pronk_return_mean", "Mean return of the last 100 episodes.", ["policy"])
RETURN_QUANTILE = Gauge(
    "pronk_return_quantile", "Quantiles of the same returns: 0.1 and 0.9.", ["policy", "quantile"]
)
RHO_MEAN = Gauge("pronk_rho_mean", "Mean importance weight before clipping.", ["policy"])
RHO_CLIPPED_SHARE = Gauge("pronk_rho_clipped_share", "Share of weights above the clip.", ["policy"])
PUBLISH_SECONDS = Histogram(
    "pronk_publish_seconds",
    "Storing the blobs of a version and making it the newest.",
    ["policy"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
PUBLISH_FAILURES = Counter(
    "pronk_publish_failures", "Versions that were not published.", ["policy"]
)
CHECKPOINTS_DAMAGED = Counter(
    "pronk_checkpoints_damaged", "Checkpoints passed over because they cannot be read."
)
CHECKPOINT_FAILURES = Counter(
    "pronk_checkpoint_failures", "Checkpoints that were not written.", ["policy"]
)
LAST_CHECKPOINT_TIMESTAMP = Gauge(
    "pronk_last_checkpoint_timestamp_seconds", "When the newest checkpoint was written.", ["policy"]
)
LAST_UPDATE_TIMESTAMP = Gauge(
    "pronk_last_update_timestamp_seconds", "When the newest update was applied.", ["policy"]
)

# Whoever keeps a run directory: the learner and the parameter server
DISK_BYTES = Gauge("pronk_disk_bytes", "Size of the disk that holds the run directory.")
DISK_FREE_BYTES = Gauge("pronk_disk_free_bytes", "What is free on it.")
DISK_FAILURES = Counter(
    "pronk_disk_failures",
    "Files of a run, releases and changes of its state that were not written.",
    ["what"],
)

# Parameter server
RUN_RUNNING = Gauge("pronk_run_running", "1 while the run goes on, 0 once it is over.")
POLICY_FINISHED = Gauge(
    "pronk_policy_finished",
    "1 where the policy has met its stop condition, while others may go on.",
    ["policy"],
)
MEMBERS = Gauge("pronk_members", "Living members.", ["kind"])
ACTOR_DEMAND = Gauge(
    "pronk_actor_demand", "Actors that the learner could keep up with.", ["policy"]
)
VERSIONS_PUBLISHED = Counter("pronk_versions_published", "Versions made the newest.", ["policy"])
BLOBS_DAMAGED = Counter(
    "pronk_blobs_damaged", "Blobs on disk that are missing or do not have their hash."
)
REPORTS_DAMAGED = Counter(
    "pronk_reports_damaged", "Reports of runs left out because they cannot be read."
)
RPC_REFUSED = Counter("pronk_rpc_refused", "Calls refused.", ["method", "code"])
EPISODES_REPORTED = Counter("pronk_episodes_reported", "Ends of episodes reported.", ["policy"])
EPISODES_LOST = Counter(
    "pronk_episodes_lost", "Open episodes of members that went away.", ["policy"]
)
EPISODES_CENSORED = Counter(
    "pronk_episodes_censored", "Episodes closed because they were open too long.", ["policy"]
)


def tell_disk(folder: Path) -> None:
    """Set the gauges of the disk that holds `folder`; one that cannot be looked at keeps its."""
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        DISK_BYTES.set(usage.total)
        DISK_FREE_BYTES.set(usage.free)


def serve(host: str, port: int) -> int:
    """Serve `/metrics` in a thread of its own; return the port (0 asks for a free one).

    Raises:
        Misconfigured: the address cannot be listened on.
    """
    try:
        server, _thread = start_http_server(port, host)
    except OSError as error:
        raise Misconfigured(
            f"PRONK_METRICS_LISTEN: cannot listen on {host}:{port}: {error.strerror or error}"
        ) from None
    return server.server_port
