"""TensorBoard event files."""

import io
from collections.abc import Iterable
from pathlib import Path

from scoring.export.points import Axis, Point, _missing
from suites.common.atomic_files import publish


def to_tensorboard(found: Iterable[Point], folder: Path, axis: Axis) -> int:
    """Write event files; how many changed. Problem (unavailable) without the ``tensorboard`` extra."""
    changed = 0
    for point in found:
        path = folder / point.run / f"events.out.tfevents.{point.step:012d}.{point.directory}"
        content = _events(point, axis)
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            publish(path, content)
            changed += 1
    return changed


def _events(point: Point, axis: Axis) -> bytes:
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415  an extra
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415
    except ImportError as error:
        raise _missing("tensorboard") from error
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    writer.write(Event(wall_time=point.at, file_version="brain.Event:2").SerializeToString())
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in sorted(point.values.items())]
    event = Event(wall_time=point.at, step=point.place(axis), summary=Summary(value=values))
    writer.write(event.SerializeToString(deterministic=True))
    return stream.getvalue()
