"""Where the model of one shape and all that is made from it lie, and who makes it."""

from pathlib import Path

from benchmarks.models import make_model, make_prompts

__all__ = ["TASKS", "Files"]

TASKS = 8  # prompts, adapters: one for each row of a batch of eight


class Files:
    """One folder for one shape. What is there already is not made again.

    Attributes:
        folder: of everything below.
        model: as transformers saves it.
        bundle: int4, exported from it.
        peft: prompt-tuning adapters as peft saves them, one folder a task.
        prompts: the same as prompt files.
        onnx_adapters: the same as onnxruntime's adapter files.
        loras: LoRA adapters for llama.cpp, with random weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.model = self.folder / "model"
        self.bundle = self.folder / "bundle"
        names = [f"task-{number}" for number in range(TASKS)]
        self.peft = [self.folder / "peft" / name for name in names]
        self.prompts = [self.folder / f"{name}.safetensors" for name in names]
        self.onnx_adapters = [self.folder / f"{name}.onnx_adapter" for name in names]
        self.loras = [self.folder / f"{name}.lora.gguf" for name in names]

    @property
    def shape(self) -> str:
        """A key of SHAPES."""
        return self.folder.name

    def gguf(self, kind: str) -> Path:
        """The model for llama.cpp: kind is F16, Q4_0 or Q8_0."""
        return self.folder / f"model-{kind}.gguf"

    def make_model(self) -> None:
        """Make model and peft."""
        make_model(self.model, self.shape)
        make_prompts(self.model, self.peft)

    def make_bundle(self) -> None:
        """Make bundle, prompts and onnx_adapters."""
        from edgept import load_prompt_source, write_prompt
        from edgept.bundle import read_manifest
        from edgept.export import export_model
        from edgept.onnx_adapter import write_onnx_adapter
        from edgept.prompt_source import bind

        self.make_model()
        if not (self.bundle / "edgept.json").is_file():
            # not compared with PyTorch here: the tests do that, and int4 has no tolerance
            export_model(str(self.model), self.bundle, precision="int4", verify=False)
        manifest = read_manifest(self.bundle)
        for source, path, adapter in zip(self.peft, self.prompts, self.onnx_adapters, strict=True):
            if not (path.is_file() and adapter.is_file()):
                prompt = bind(load_prompt_source(source, manifest), manifest)
                write_prompt(prompt, path, overwrite=True)
                write_onnx_adapter(prompt, manifest, adapter, overwrite=True)
