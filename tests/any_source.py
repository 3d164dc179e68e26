"""What stands in for a script's source where nobody looks at it: to make one takes seconds."""

import random

ANY_SOURCE = random.Random(0).randbytes(15_000)  # of the usual size, packed
