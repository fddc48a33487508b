"""Trained models as programs that need no vsattn: `torch.export`, ONNX, and ONNX with weights of 8 bits."""

from vsattn.lazy import on_demand

_HOME_OF = {
    "describe": "vsattn.exporting.description",
    "export_program": "vsattn.exporting.program",
    "load_program": "vsattn.exporting.program",
    "load_onnx": "vsattn.exporting.onnx",
    "made_up": "vsattn.exporting.samples",
    "program_inputs": "vsattn.exporting.program",
    "quantize": "vsattn.exporting.onnx",
    "save_program": "vsattn.exporting.program",
    "to_onnx": "vsattn.exporting.onnx",
}

__all__ = sorted(_HOME_OF)

__getattr__, __dir__ = on_demand(__name__, _HOME_OF)
