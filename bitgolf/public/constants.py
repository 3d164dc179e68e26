"""Constant folding: arithmetic of numbers in the syntax tree of someone's script; nothing is executed."""

import ast

Number = int | float
LARGEST_BASE, LARGEST_EXPONENT = 10_000, 64  # of powers and shifts: more is no setting, and takes memory


def folded(operator: ast.operator, left: Number, right: Number) -> Number | None:
    """What an operator makes of two numbers; None where it makes none, or one that is too large."""
    try:
        match operator:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
            case ast.FloorDiv():
                return left // right
            case ast.Pow() if abs(left) <= LARGEST_BASE and abs(right) <= LARGEST_EXPONENT:
                power = left**right
                return None if isinstance(power, complex) else power
            case ast.LShift() if int(left) == left and 0 <= right == int(right) <= LARGEST_EXPONENT:
                return int(left) << int(right)
    except (ArithmeticError, ValueError):
        pass
    return None
