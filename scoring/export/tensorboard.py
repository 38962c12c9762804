"""Points as TensorBoard event files."""

import io
from collections.abc import Iterable
from pathlib import Path

from scoring.export.points import Axis, CurvePoint, make_missing_extra_error
from suites.common.atomic_files import write_atomically


def export_tensorboard(points: Iterable[CurvePoint], folder: Path, axis: Axis) -> int:
    """Write event files; returns how many changed.

    Raises UserError (unavailable) without the ``tensorboard`` extra.
    """
    changed_files = 0
    for point in points:
        path = folder / point.run / f"events.out.tfevents.{point.step:012d}.{point.directory}"
        content = _encode_events(point, axis)
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            changed_files += 1
    return changed_files


def _encode_events(point: CurvePoint, axis: Axis) -> bytes:
    """The bytes of an event file: the header record and one record with all values."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415  an extra
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415
    except ImportError as error:
        raise make_missing_extra_error("tensorboard") from error
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    writer.write(Event(wall_time=point.unix_time, file_version="brain.Event:2").SerializeToString())
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in sorted(point.values.items())]
    event = Event(wall_time=point.unix_time, step=point.get_axis_value(axis), summary=Summary(value=values))
    writer.write(event.SerializeToString(deterministic=True))
    return stream.getvalue()
