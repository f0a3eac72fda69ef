"""The int8 form of an extractor: weights and activations of its large products in 8 bits, where that is worth it."""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx.numpy_helper import to_array

from infogan.files import write_atomically
from retrieval.directory import INT8, MODEL
from retrieval.extractor import session_options
from retrieval.labels import Labels
from retrieval.metrics import neighbour_report
from training.photos import PhotoStore

CALIBRATION_PHOTOS = 512
MOST_LOST = 0.005  # of P@5
LEAST_GAINED = 1.05  # times faster
_LARGE = 10_000  # weights: what is smaller is no work
_BATCH = 8


@dataclass(frozen=True)
class Judgement:
    """What the int8 form costs and gains, measured here.

    Attributes:
        precision_at_5: of the fp32 form and of the int8 form, on `photos` labelled photos by `scheme`.
        times_faster: of single photos on one thread, the network alone.
    """

    precision_at_5: tuple[float, float]
    times_faster: float
    photos: int
    scheme: str

    @property
    def worth_it(self) -> bool:
        lost = self.precision_at_5[0] - self.precision_at_5[1]
        return lost <= MOST_LOST and self.times_faster >= LEAST_GAINED

    def __str__(self) -> str:
        return (
            f"P@5 {self.precision_at_5[1]:.4f} instead of {self.precision_at_5[0]:.4f} on {self.photos:,} photos"
            f" ({self.scheme}), {self.times_faster:.2f} times as fast"
        )


def quantise(directory: Path, calibration: PhotoStore) -> None:
    """Write `model.int8.onnx` beside `model.onnx`, its ranges taken from unlabelled photos (static quantisation)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            rows = np.random.default_rng(0).permutation(len(calibration))[:CALIBRATION_PHOTOS]
            self.batches = iter(np.array_split(rows, max(1, len(rows) // _BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"photos": _planar(calibration.read(np.sort(batch)))}

    with tempfile.TemporaryDirectory() as place, _quiet():
        folded, quantised = Path(place, "folded.onnx"), Path(place, "int8.onnx")
        nodes = _fold_constants(directory / MODEL, folded)
        twins = _transposed(onnx.load(folded))
        one_scale = [{"quant_type": QuantType.QInt8}]
        quantize_static(
            folded,
            quantised,
            Photos(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=nodes,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            extra_options={"TensorQuantOverrides": {name: one_scale for pair in twins.items() for name in pair}},
        )
        model = onnx.load(quantised)
        _store_once(model)
        write_atomically(directory / INT8, model.SerializeToString())


def _fold_constants(source: Path, target: Path) -> list[str]:
    """Write the graph with its constants computed, and tell which products have many weights."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    # A product that has swallowed the addition of a residual has no 8-bit counterpart.
    ort.InferenceSession(
        str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    model = onnx.load(target)
    del model.graph.value_info[:]  # shapes of what is there no more, which the quantiser stumbles over
    onnx.save(model, target)
    sizes = {item.name: int(np.prod(item.dims)) for item in model.graph.initializer}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return convolutions + [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and sizes.get(node.input[1], 0) >= _LARGE
    ]


def _transposed(model: onnx.ModelProto) -> dict[str, str]:
    """Which large matrices are another one transposed; {name: the other's}."""
    found: dict[str, str] = {}
    large = {item.name: to_array(item) for item in model.graph.initializer if np.prod(item.dims) >= _LARGE}
    for (first, matrix), (second, other) in combinations(large.items(), 2):
        if matrix.ndim == 2 and matrix.shape == other.shape[::-1] and np.array_equal(matrix, other.T):
            found[second] = first
    return found


def _store_once(model: onnx.ModelProto) -> None:
    """Transpose when loading what is stored twice, here and there transposed."""
    twins = _transposed(model)
    kept = [item for item in model.graph.initializer if item.name not in twins]
    turns = [onnx.helper.make_node("Transpose", [one], [twin], perm=[1, 0]) for twin, one in twins.items()]
    nodes = [*turns, *model.graph.node]
    for field, content in ((model.graph.initializer, kept), (model.graph.node, nodes)):
        del field[:]
        field.extend(content)


def judge(directory: Path, photos: PhotoStore, labels: Labels, scheme: str) -> Judgement:
    """Measure both forms on labelled photos, and time them in turns."""
    sessions = [_session(directory / name) for name in (MODEL, INT8)]
    precisions = []
    for session in sessions:
        features = [
            session.run(None, {"photos": _planar(photos.read(part))})[0]
            for part in np.array_split(labels.rows, -(-len(labels.rows) // _BATCH))
        ]
        report = neighbour_report(np.concatenate(features), labels.classes, labels.products, 5)
        precisions.append(float(report["precision_at_k"]))
    single = [_planar(photos.read(labels.rows[i : i + 1])) for i in range(min(20, len(labels.rows)))]
    times = [[_time(session, single) for session in sessions] for _ in range(9)][1:]
    return Judgement(
        precision_at_5=(precisions[0], precisions[1]),
        times_faster=statistics.median(fp32 / int8 for fp32, int8 in times),
        photos=len(labels.rows),
        scheme=scheme,
    )


def _session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])


def _time(session: ort.InferenceSession, photos: list[np.ndarray]) -> float:
    seconds = []
    for photo in photos:
        began = time.perf_counter()
        session.run(None, {"photos": photo})
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _planar(photos: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photos.transpose(0, 3, 1, 2))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser recommends a preparation that is done here already."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
