"""ONNX Runtime, which predicts only: a session over a model of ``Gemm`` nodes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from fastnn._cli.bench.peers import Peer, UnavailableError
from fastnn._cli.bench.workloads import Case

_OPSET, _IR = 17, 8


class OnnxRuntime(Peer):
    """``InferenceSession.run`` on one thread, with every optimization of the graph."""

    packages = ("onnxruntime", "onnx")

    def __init__(self, case: Case):
        super().__init__(case)
        if case.workload.trains:
            raise UnavailableError("predicts only")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = _model(case).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def losses(self, n: int) -> NDArray[Any]:
        raise NotImplementedError

    def train(self, passes: int) -> float:
        raise NotImplementedError

    def outputs(self) -> NDArray[Any]:
        found: NDArray[Any] = self._session.run(None, {"x": self.case.x})[0]
        return found

    def predict(self, calls: int) -> float:
        run, feed = self._session.run, {"x": self.case.x}
        begin = time.perf_counter()
        for _ in range(calls):
            run(None, feed)
        return time.perf_counter() - begin


def _model(case: Case) -> ModelProto:
    """The network as an ONNX model."""
    work, nodes, name = case.workload, [], "x"
    arrays: dict[str, NDArray[Any]] = {}
    for k, (weight, bias) in enumerate(case.weights):
        arrays |= {f"weight{k}": weight, f"bias{k}": bias}
        nodes.append(helper.make_node("Gemm", [name, f"weight{k}", f"bias{k}"], [f"z{k}"]))
        name = f"z{k}"
        if k < len(case.weights) - 1:
            nodes += _activation(work.hidden, f"z{k}", f"a{k}")
            name = f"a{k}"
    if work.hidden == "gelu":
        arrays |= {key: np.array(value, case.dtype) for key, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))}
    kind = TensorProto.FLOAT if case.dtype == "float32" else TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, [work.rows, work.widths[0]])],
        [helper.make_tensor_value_info(name, kind, [work.rows, work.widths[-1]])],
        [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    checker.check_model(model)
    return model


def _activation(kind: str, z: str, a: str) -> list[NodeProto]:
    """Nodes from pre-activation to activation. This opset's GELU is the pattern that ONNX Runtime fuses into one."""
    if kind != "gelu":
        return [helper.make_node({"relu": "Relu", "tanh": "Tanh"}[kind], [z], [a])]
    return [
        helper.make_node("Div", [z, "root"], [f"{a}.scaled"]),
        helper.make_node("Erf", [f"{a}.scaled"], [f"{a}.erf"]),
        helper.make_node("Add", [f"{a}.erf", "one"], [f"{a}.sum"]),
        helper.make_node("Mul", [z, f"{a}.sum"], [f"{a}.product"]),
        helper.make_node("Mul", [f"{a}.product", "half"], [a]),
    ]
