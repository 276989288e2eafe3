"""The table of what is left to be made, with estimates in core-hours."""

from __future__ import annotations

Lines = dict[tuple[str, str], list]  # (world or task, title) -> updates, passes, runs, hours of training, of measuring


def add_costs(lines: Lines, line: tuple[str, str], costs: tuple[int, int], seconds: tuple[float, float]) -> None:
    """Add a piece to its line.

    Args:
        lines: what the pieces before cost.
        line: (world or task, title).
        costs: its updates, and the network passes of an update.
        seconds: of one core for (training, measuring) it.
    """
    found = lines.setdefault(line, [*costs, 0, 0.0, 0.0])
    training, measuring = seconds
    found[2], found[3], found[4] = found[2] + 1, found[3] + training / 3600, found[4] + measuring / 3600


def table(lines: Lines) -> str:
    """A line for each row: updates, passes of an update, trainings, hours of training and of measuring; and the sum."""
    text = [f"{'':52}{'updates':>8}{'passes':>7}{'runs':>5}{'train, h':>9}{'measure, h':>11}"]
    for (task, title), (updates, of_update, runs, training, measuring) in lines.items():
        text.append(f"{task:17}{title:35}{updates:8}{of_update:7}{runs:5}{training:9.2f}{measuring:11.2f}")
    runs, training, measuring = (sum(line[i] for line in lines.values()) for i in (2, 3, 4))
    text.append(f"{f'core-hours: {training + measuring:.1f}':67}{runs:5}{training:9.2f}{measuring:11.2f}")
    return "\n".join(text)
