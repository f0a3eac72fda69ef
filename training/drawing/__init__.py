"""How one shoe is drawn: a last, the parts built on it, and a small studio that lights and photographs them.

Shoe units: x runs from the toe (0, left) to the heel (100, right), y upwards from the ground. A builder turns a `Shape`
into an ordered list of `Part`s; the studio fits them to the frame, so builders know nothing of pixels or colour.
"""

from training.drawing.shape import Colour, Colours, Light, Shape
from training.drawing.studio import BUILDERS, PATTERNS, draw_shoe

__all__ = ["BUILDERS", "PATTERNS", "Colour", "Colours", "Light", "Shape", "draw_shoe"]
