"""The newest version of a policy that may act, prepared while an older one acts."""

import threading
import time
from collections.abc import Callable

from pronk.errors import Misconfigured
from pronk.policy.bundle import Bundle
from pronk.policy.engine import Engine, FingerprintMismatch, open_engine
from pronk.telemetry import logs, metrics
from pronk.transport.heart import Heart
from pronk.wire.spec import EnvironmentSpec
from pronk_actor.agent import ReadyPolicy


class PolicySource:
    """Makes engines of versions on a thread of its own.

    Of the versions that wait only the newest is prepared. One that does not fit, or whose outputs
    are not those that its learner computed, is refused and counted: whoever acts goes on with the
    version that it has. Whatever else goes wrong ends the actor: nobody could tell it from one that
    has heard of nothing new.

    Attributes:
        error: why versions come no more.
    """

    def __init__(
        self,
        policy: str,
        spec: EnvironmentSpec,
        threads: int,
        heart: Heart,
        on_error: Callable[[], None],
    ) -> None:
        """Prepare versions of a policy.

        Args:
            policy: whose.
            spec: the environment that it is to act in.
            threads: of each engine.
            heart: told of every version that is prepared.
            on_error: called if that cannot go on.
        """
        self.error: Exception | None = None
        self._policy = policy
        self._name = f"prepare-{policy}"
        self._heart = heart
        self._on_error = on_error
        self._spec = spec
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: Bundle | None = None
        self._ready: ReadyPolicy | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def offer(self, bundle: Bundle) -> None:
        """A version has arrived; one that still waited is dropped."""
        with self._changed:
            self._waiting = bundle
            self._changed.notify_all()

    def newest(self) -> ReadyPolicy:
        """The newest version that may act; there must have been one."""
        if self._ready is None:
            raise RuntimeError(f"no version of policy {self._policy!r} is ready")
        return self._ready

    @property
    def at_hand(self) -> bool:
        """Whether there is a version that may act."""
        return self._ready is not None

    def wait_above(self, number: int, timeout: float) -> ReadyPolicy | None:
        """A version above `number`, or None when there is none within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_above(number), timeout)
            return self._ready if self._is_above(number) else None

    def fail(self, error: Exception) -> None:
        """Versions come no more."""
        self.error = error
        self._on_error()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _is_above(self, number: int) -> bool:
        return self._ready is not None and self._ready.version.number > number

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._closed or self._waiting is None:
                    return
                bundle, self._waiting = self._waiting, None
            started = time.perf_counter()
            try:
                with self._heart.at_work(self._name):
                    ready = self._prepare(bundle)
            except Exception as error:
                self.fail(error)
                return
            if ready is None:
                continue
            metrics.PREPARE_SECONDS.labels(self._policy).observe(time.perf_counter() - started)
            with self._changed:
                self._ready = ready
                self._changed.notify_all()

    def _prepare(self, bundle: Bundle) -> ReadyPolicy | None:
        manifest, acting = bundle.manifest, self._ready
        if acting is not None and manifest.number <= acting.version.number:
            return None
        try:
            return ReadyPolicy(self._open(bundle, acting), manifest)
        except FingerprintMismatch as error:
            reason, why = "fingerprint", str(error)
        except Misconfigured as error:
            reason, why = "unusable", str(error)
        metrics.POLICIES_REFUSED.labels(reason).inc()
        logs.get().error(
            "policy_refused", policy=self._policy, number=manifest.number, reason=reason, why=why
        )
        return None

    def _open(self, bundle: Bundle, acting: ReadyPolicy | None) -> Engine:
        manifest = bundle.manifest
        if manifest.policy != self._policy or manifest.environment != self._spec:
            raise Misconfigured(
                f"it is policy {manifest.policy!r} of {manifest.environment.environment}, asked "
                f"for was {self._policy!r} of this {self._spec.environment}"
            )
        like = None if acting is None else acting.engine
        return open_engine(bundle, self._threads, like=like)
