"""Scalars for TensorBoard, written in place.

Its own writer has a thread, which a full disk kills for good.
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """One file of events.

    Args:
        folder: where it is made.
        step: what earlier files hold from this step on is void.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        # Buffered: what a full disk does not take is kept and goes with the next event, so that no
        # event is cut in two; what the buffer does not hold either is left out.
        self._file = (folder / name).open("ab")
        self._records = RecordWriter(self._file)
        begun = SessionLog(status=SessionLog.START)
        try:
            self._write(Event(wall_time=time.time(), step=step, file_version="brain.Event:2"))
            self._write(Event(wall_time=time.time(), step=step, session_log=begun))
            self._file.flush()
        except OSError:  # whoever tries again has another name for it
            with suppress(OSError):
                self._file.close()
            (folder / name).unlink()
            raise

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Values by tag, at a step.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summary = Summary(value=scalars)
        self._write(Event(wall_time=time.time(), step=step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: not everything could be written.
        """
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
