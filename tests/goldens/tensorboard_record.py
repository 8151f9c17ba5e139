"""One event record as TensorBoard's own writer frames it, for the host's event writer to equal byte for byte.

Made with tensorboard 2.21.0, protobuf 7.36.2: `python tests/goldens/tensorboard_record.py`
"""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

out = Path(__file__).with_suffix("") / "scalar_record.bin"
out.parent.mkdir(exist_ok=True)
value = Summary.Value(tag="train/loss", simple_value=0.25)
event = Event(wall_time=1.5, step=300, summary=Summary(value=[value]))
with out.open("wb") as file:
    RecordWriter(file).write(event.SerializeToString())
