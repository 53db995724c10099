"""Numbers of a schema that the grammar library holds to exactly; the others are refused.

It computes bounds and constants in double precision and multiples in 32 bits (llguidance 1.9.1).
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from glm4v.json_schema.refusal import Place, refusal, shown

MOST_EXACT = 2**53 - 1  # up to here every integer is a double of its own
# A number of an answer is followed digit by digit with a state for each remainder, and an answer
# may take 20 000 states. Two of them multiplied fit in 32 bits.
MOST_MULTIPLE = 10_000
_MOST_DECIMALS = 9
_FIRST_TOO_LARGE = 2**32


def exact(number: Decimal, place: Place) -> int | float:
    """The same value as a number that JSON and a double can carry.

    Raises InvalidRequest where there is none.
    """
    if number.copy_abs() > MOST_EXACT:
        raise refusal(
            place,
            f"{shown(number)} is beyond ±{MOST_EXACT}, where numbers are no longer exact; "
            "write it as a string",
        )
    double = float(number)
    if Decimal(repr(double)) != number:
        raise refusal(
            place,
            f"{shown(number)} has more digits than a double holds; use fewer, "
            "or write it as a string",
        )
    return int(double) if double.is_integer() else double


def multiple(number: Decimal, place: Place) -> int | float:
    """A `multipleOf` that is held to. Raises InvalidRequest for another."""
    if number <= 0:
        raise refusal(place, f"{shown(number)} is not above 0")
    value = exact(number, place)
    if _decimals(number) > _MOST_DECIMALS or _scaled(number, _decimals(number)) > MOST_MULTIPLE:
        raise refusal(
            place,
            f"{shown(number)} without its decimal point is above {MOST_MULTIPLE}, or has more "
            f"than {_MOST_DECIMALS} decimals; use a simpler one",
        )
    # The library multiplies a double by 10 until nothing is behind the point.
    double = float(value)
    while not double.is_integer():
        double *= 10
        if double >= _FIRST_TOO_LARGE:
            raise refusal(
                place, f"{shown(number)} is not exact in binary steps of ten; use a simpler one"
            )
    return value


def check_common_multiple(multiples: Mapping[Place, Decimal]) -> None:
    """Refuse multiples whose combination may pass 32 bits, where several rule one number."""
    if not multiples:
        return
    decimals = max(_decimals(number) for number in multiples.values())
    common = math.lcm(*(_scaled(number, decimals) for number in multiples.values()))
    if common > MOST_MULTIPLE:
        raise refusal(
            next(iter(multiples)),
            f"together with the other multipleOf of the schema it is {common} units of the last "
            f"decimal; at most {MOST_MULTIPLE} are held to where schemas are combined",
        )


def check_open_ends(
    lower: Sequence[tuple[Place, Decimal]], upper: Sequence[tuple[Place, Decimal]]
) -> None:
    """Refuse an exclusive bound that is whole, with an opposite bound before the next whole one.

    The library lets the exclusive bound itself through there. Each sequence has minimum and
    exclusiveMinimum (maximum and exclusiveMaximum) of numbers that both may rule.
    """
    for sign, ends, opposites in ((1, lower, upper), (-1, upper, lower)):
        for place, end in ends:
            if not place[-1].startswith("exclusive") or end != end.to_integral_value():
                continue
            for _, opposite in opposites:
                if 0 < sign * (opposite - end) < 1:
                    raise refusal(
                        place,
                        f"{shown(end)} cannot be kept out of a range that ends at "
                        f"{shown(opposite)}; give an inclusive bound instead",
                    )


def _decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _scaled(number: Decimal, decimals: int) -> int:
    return int(number.scaleb(decimals))
