"""What happens to vectors: load an exported extractor, index a catalogue, search it, measure it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.extractor import Extractor

__all__ = ["Extractor"]


def __getattr__(name: str) -> Any:
    """`from retrieval import Extractor`, without NumPy being imported by whoever wants something else of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from retrieval.extractor import Extractor

    return Extractor
