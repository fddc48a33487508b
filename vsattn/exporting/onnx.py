"""Programs as ONNX files, which run without PyTorch, and with weights of 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vsattn.errors import ConfigError, DataError, VsattnError
from vsattn.exporting.program import Batch, Run, program_names, quiet

#: One file holds at most so many bytes: a limit of its format.
MAX_BYTES = 2**31 - 2**20

#: What takes weights of 8 bits: products with a matrix, and tables of vectors.
QUANTIZED = ["MatMul", "Gather"]


def require() -> None:
    """Raise ConfigError without the packages that ONNX needs."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs the packages onnx, onnxruntime and onnxscript ({error}): pip install 'vsattn[onnx]', or "
            "choose format=torch"
        ) from None


def to_onnx(program: ExportedProgram, path: str | Path, description: dict[str, Any]) -> None:
    """Write a program as one ONNX file; inputs and dimensions have the names that they have in a batch.

    Args:
        program: made by :func:`~vsattn.exporting.export_program`.
        path: of the file.
        description: of the program; all of it but the tokenizer's state goes into the file's metadata.

    Raises:
        ConfigError: without the packages.
        VsattnError: for what ONNX cannot express, or more weights than one file holds.
    """
    require()
    import onnx

    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if weights > MAX_BYTES:
        raise VsattnError(f"one ONNX file holds 2 GiB, and these weights are {weights / 2**30:.1f}: use format=torch")
    names = program_names(program)
    try:
        with quiet():
            made = torch.onnx.export(
                program, input_names=names, output_names=list(description["outputs"]), dynamo=True, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise VsattnError(f"ONNX cannot express this model: {reason}; use format=torch") from error
    assert made is not None
    model = made.model_proto
    shapes = {**description["inputs"], **description["outputs"]}
    for value in (*model.graph.input, *model.graph.output):
        for size, name in zip(value.type.tensor_type.shape.dim, shapes[value.name]["shape"], strict=True):
            if isinstance(name, str):
                size.dim_param = name
    del model.graph.value_info[:]  # its dimensions have other names, and runtimes work them out themselves
    for node in model.graph.node:
        del node.metadata_props[:]  # where in the code it was made, on this machine
    notes = {**description, "tokenizer": {**description["tokenizer"], "state": None}}
    for key, value in notes.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantize(source: str | Path, target: str | Path) -> None:
    """Write an ONNX file again with weights of 8 bits; activations are brought to 8 bits as they come.

    Products with a weight matrix are taken in whole numbers, with a scale for each of its columns; tables of vectors
    are kept in 8 bits. Whatever else a model does stays as it is.

    Raises:
        ConfigError: without the packages.
    """
    require()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():  # unsigned weights: sums of signed ones overflow on processors without VNNI
        quantize_dynamic(
            str(source), str(target), op_types_to_quantize=QUANTIZED, per_channel=True, weight_type=QuantType.QUInt8
        )


def load_onnx(path: str | Path) -> tuple[Run, dict[str, Any]]:
    """Return what an ONNX file computes on the CPU, by onnxruntime, and its metadata.

    Raises:
        ConfigError: without the packages.
        DataError: for a file that is none.
    """
    require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an error of its own for every kind of fault
        raise DataError(f"{path} is no ONNX file ({type(error).__name__}: {error})") from None
    names = [value.name for value in session.get_inputs()]

    def run(batch: Batch) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {name: batch[name].numpy() for name in names})))

    return run, dict(session.get_modelmeta().custom_metadata_map)
