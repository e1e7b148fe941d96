"""Numbers that are none, too large, too small, or of another type, as people and programs write them."""

from __future__ import annotations

from random import Random

# On a command line.
WRITTEN = (
    *("nan", "NaN", "inf", "-inf", "Infinity", "1e999", "-1e999", "1e-999", "1e308", "1e-308", "5e-324", "-0.0", "0"),
    *("-1", "0x10", "1_000", "1e3", "1.5", "1,5", "\u0661", "\xbd", "", " ", " 1", "true", "null", "1/2", "--1"),
    *("9" * 23, "-" + "9" * 23, "9" * 400, "9" * 5000, str(2**63 - 1), str(2**63), str(2**64), "0.1", "1000000000000"),
    *("1e-30", "auto", "\x00", "\udcff"),
)
# In a file, as YAML writes them.
IN_YAML = (
    *(".nan", ".inf", "-.inf", "1.0e+999", "1.0e-999", "5.0e-324", "-0.0", "0", "-1", "1e3", "0x10", "0o17", "0b1"),
    *("1_000", "190:20:30", "true", "null", "~", "yes", "''", "'1'", "[]", "{}", "[1]", "1.5", "2001-01-01", "9" * 23),
    *("-" + "9" * 23, "9" * 400, str(2**63 - 1), str(2**63), "1000000000000", "1.0e-30", "1.0e+30", "!!binary aGk="),
    *("!!set {a}", "!!omap [a: 1]", "!!str 1", "!!float 1", "1.", ".5", "+1", "0777", "[.nan]", "{a: .inf}"),
)


def draw_written(draw: Random) -> str:
    """One of them, or one that nobody thought of."""
    if draw.random() < 0.75:
        return draw.choice(WRITTEN)
    sign, digits = draw.choice(["", "-", "+"]), str(draw.randrange(10 ** draw.randrange(1, 40)))
    return sign + digits + draw.choice(["", ".", ".5", "e5", "e-5", "e400", "E+2", "L", "%"])
