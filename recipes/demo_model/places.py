"""Places: where the middle of something is, and how long its longer side is."""

from random import Random

Place = tuple[float, float, float]  # x, y and side, 0 to 1


def single_place(rng: Random) -> Place:
    """In the centre, clearly at one side, or anywhere."""
    where = rng.random()
    if where < 0.4:
        return rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.4, 0.85)
    if where < 0.8:
        side = rng.uniform(0.3, 0.42)
        along, across = rng.uniform(side / 2 + 0.02, 0.26), rng.uniform(0.42, 0.58)
        along = along if rng.random() < 0.5 else 1 - along
        return (along, across, side) if rng.random() < 0.5 else (across, along, side)
    side = rng.uniform(0.35, 0.7)
    return rng.uniform(side / 2, 1 - side / 2), rng.uniform(side / 2, 1 - side / 2), side


def _row(rng: Random, count: int) -> list[Place]:
    """Places from left to right."""
    room = 1 / count
    level = rng.uniform(0.4, 0.6)
    places = []
    for i in range(count):
        side = rng.uniform(0.68, 0.94) * room
        x = (i + 0.5) * room + rng.uniform(-1, 1) * (room - side) / 2
        places.append((x, level + rng.uniform(-0.08, 0.08), side))
    return places


def line(rng: Random, count: int) -> tuple[str, list[Place]]:
    """Places in a row or a column, and which."""
    places = _row(rng, count)
    if rng.random() < 0.5:
        return "row", places
    return "column", [(y, x, side) for x, y, side in places]


def grid(rng: Random, count: int) -> list[Place]:
    """Random places that do not overlap."""
    n = 2 if count <= 4 and rng.random() < 0.4 else 3
    room = 1 / n
    side = rng.uniform(0.62, 0.92) * room
    places = []
    for cell in rng.sample(range(n * n), count):
        slack = (room - side) / 2
        x = (cell % n + 0.5) * room + rng.uniform(-slack, slack)
        y = (cell // n + 0.5) * room + rng.uniform(-slack, slack)
        places.append((x, y, side * rng.uniform(0.88, 1)))
    return places


def corners(rng: Random) -> list[Place]:
    """Four places, one near each corner, in reading order."""
    return [
        (x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03), 0.4)
        for y in (0.26, 0.74)
        for x in (0.26, 0.74)
    ]
