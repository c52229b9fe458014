"""Event files as TensorBoard's own reader understands them."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The step and value of each point that TensorBoard shows of a folder, by tag."""
    shown = EventAccumulator(str(folder)).Reload()
    return {tag: [(point.step, point.value) for point in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}
