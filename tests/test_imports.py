"""What a device never loads, and what happens where onnxruntime is missing."""

import ast
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgept
from edgept.bundle import hash_file
from edgept.manifest import BundleFile, KVGeometry, Manifest

ROOT = Path(__file__).resolve().parents[1]
WORKSTATION = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "optimum", "peft"}
# Put before a program, it makes a machine without these packages out of this one.
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
NO_ONNXRUNTIME = ABSENT.format(absent={"onnxruntime", "onnxruntime_genai"})
NO_WORKSTATION = ABSENT.format(absent=WORKSTATION)
# A whole model: y = x + x over float [1], opset 13.
ADD = bytes.fromhex(
    "08083a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a"
    "08080112040a02080142040a00100d"
)


def python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a program in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a program has loaded at its end."""
    shown = python(f"{code}\nimport sys, json; print(json.dumps(list(sys.modules)))")
    assert shown.returncode == 0, shown.stderr
    return {name.partition(".")[0] for name in json.loads(shown.stdout.splitlines()[-1])}


def test_the_public_api_loads_nothing_of_the_workstation() -> None:
    loaded = loaded_after(
        "import edgept, edgept.runtime\n"
        "for package in (edgept, edgept.runtime):\n"
        "    for name in package.__all__:\n"
        "        getattr(package, name)\n"
    )
    assert "edgept" in loaded
    assert "numpy" in loaded
    assert not loaded & (WORKSTATION | {"onnxruntime_genai", "accelerate"})


def test_import_alone_loads_nothing() -> None:
    assert not loaded_after("import edgept") & {"numpy", "onnxruntime", "tokenizers", "click"}


def test_models_of_text_do_without_pillow() -> None:
    loaded = loaded_after("import edgept.runtime.model, edgept.cli.run, edgept.cli.findings")
    assert "onnxruntime" in loaded or "numpy" in loaded
    assert "PIL" not in loaded


@pytest.mark.parametrize(
    "command", ["", "run", "bench", "tune", "export", "verify", "doctor", "prompt", "prompt pack"]
)
def test_help_loads_no_library_but_click(command: str) -> None:
    loaded = loaded_after(
        "from edgept.cli import main\n"
        f"main([*{command.split()!r}, '--help'], standalone_mode=False)\n"
    )
    assert "click" in loaded
    heavy = {"numpy", "PIL", "rich", "onnxruntime", "tokenizers", "safetensors", "jinja2"}
    assert not loaded & (heavy | WORKSTATION)


def cpu_seconds(*command: str) -> float:
    """Processor time of a command: a busy machine changes it little."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick() -> None:
    """A few times a bare interpreter's start, which is 0.02 s or so: under 0.3 s on any desktop."""
    bare, full = [], []
    for _ in range(5):
        bare.append(cpu_seconds(sys.executable, "-c", "pass"))
        full.append(cpu_seconds(sys.executable, "-m", "edgept", "--help"))
    assert statistics.median(full) < 8 * statistics.median(bare)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that is right in all that is looked at before onnxruntime loads."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(ADD)
    manifest = Manifest(
        source="tiny",
        architecture="LlamaForCausalLM",
        model_type="llama",
        task="text-generation",
        vocab_size=512,
        hidden_size=4,
        max_positions=64,
        max_virtual_tokens=16,
        kv=KVGeometry(1, 1, 4, shared_buffer=False),
        bos_token_id=1,
        eos_token_ids=[2],
        precision="fp32",
        float_type="float32",
        target="cpu",
        providers=["CPUExecutionProvider"],
        opset={"": 13},
        min_onnxruntime="1.0.0",
        fingerprint="ab" * 32,
        created_by="edgept 0.1.0",
        files={"model.onnx": BundleFile(len(ADD), hash_file(folder / "model.onnx"))},
    )
    (folder / "edgept.json").write_text(manifest.to_json())
    return folder


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    """A prompt file that fits the bundle."""
    tensors = {"prompt_embeds": np.ones((2, 4), np.float32)}
    path = tmp_path / "spanish.safetensors"
    edgept.write_prompt(edgept.Prompt(tensors, name="spanish", fingerprint="ab" * 32), path)
    return path


def command_line(absent: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run edgept where something is not installed."""
    return python(f"{absent}\nfrom edgept.cli import main\nmain(prog_name='edgept')", *arguments)


def test_load_without_onnxruntime_names_what_to_install(bundle: Path) -> None:
    code = (
        f"{NO_ONNXRUNTIME}\n"
        "import edgept\n"
        "try:\n"
        "    edgept.load(sys.argv[1])\n"
        "except edgept.MissingDependencyError as error:\n"
        "    print(error)\n"
    )
    shown = python(code, bundle)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("onnxruntime is not installed. ")
    assert "pip install" in shown.stdout


def test_run_without_onnxruntime_is_one_line(bundle: Path, prompt: Path) -> None:
    shown = command_line(NO_ONNXRUNTIME, "run", "-b", bundle, "--prompt", prompt, "text")
    assert shown.returncode == 1
    assert shown.stdout == ""
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: onnxruntime is not installed. ")
    assert "pip install" in line


def test_inspect_and_pack_need_no_onnxruntime(bundle: Path, prompt: Path, tmp_path: Path) -> None:
    shown = command_line(NO_ONNXRUNTIME, "prompt", "inspect", prompt, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["virtual_tokens"] == 2
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    packed = tmp_path / "packed.safetensors"
    shown = command_line(NO_ONNXRUNTIME, "prompt", "pack", rows, "-b", bundle, "-o", packed)
    assert shown.returncode == 0, shown.stderr
    assert edgept.read_prompt(packed).fingerprint == "ab" * 32


def test_help_without_onnxruntime() -> None:
    shown = command_line(NO_ONNXRUNTIME, "-h")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("words", [["export", "org/model"], ["verify", "--model", "org/model"]])
def test_what_a_workstation_does_names_its_extra(words: list[str], bundle: Path) -> None:
    place = ["-o", bundle.parent / "new"] if words[0] == "export" else ["-b", bundle]
    shown = command_line(NO_WORKSTATION, *words, *place)
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: ")
    assert "pip install 'edgept[cpu,export]'" in line
    assert not (bundle.parent / "new").exists()


def sources(folder: str) -> list[Path]:
    """The Python files of a folder, links not followed."""
    found = []
    for place, _, names in os.walk(ROOT / folder):
        found += [Path(place) / name for name in names if name.endswith(".py")]
    return sorted(found)


def imported(nodes: Iterable[ast.AST], *, inside_functions: bool) -> Iterator[str]:
    """Names of the modules that these statements import, at the top level or anywhere.

    What stands under TYPE_CHECKING is left out: it never runs.
    """
    for node in nodes:
        within: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            within = node.orelse
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield from imported(within, inside_functions=inside_functions)


def banned(path: Path, *, inside_functions: bool) -> list[str]:
    """The imports of a device-side file that a device cannot follow."""
    tree = ast.parse(path.read_text("utf-8"))
    names = imported([tree], inside_functions=inside_functions)
    return [
        name
        for name in names
        if name.partition(".")[0] in WORKSTATION | {"onnxruntime_genai", "accelerate"}
        or f"{name}.".startswith(("edgept.export.", "edgept.tune."))
    ]


def test_ban(tmp_path: Path) -> None:
    """The scan below sees what it should."""
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import numpy, torch.nn\n"
        "if TYPE_CHECKING:\n    import peft\n"
        "else:\n    import optimum\n"
        "try:\n    from transformers import AutoModel\nexcept ImportError:\n    pass\n"
        "from edgept import atomic, export\n"
        "class A:\n    import onnx\n    def f(self):\n        import onnx_ir\n"
    )
    seen = ["torch.nn", "optimum", "transformers.AutoModel", "edgept.export", "onnx"]
    assert banned(path, inside_functions=False) == seen
    assert banned(path, inside_functions=True) == [*seen, "onnx_ir"]


def test_the_runtime_names_nothing_of_the_workstation() -> None:
    files = sources("runtime")
    assert ROOT / "runtime" / "model.py" in files
    found = {path: banned(path, inside_functions=True) for path in files}
    assert [path for path in files if found[path]] == []


def test_the_shared_part_loads_the_workstation_only_inside_functions() -> None:
    """Left out are edgept.tune, which its command imports when it runs, and the demo's programs.

    One of these has a module of its own, what the image model is taught.
    """
    tune = ROOT / "edgept" / "tune"
    taught = ROOT / "edgept" / "demo" / "lessons.py"
    files = [
        path
        for path in sources("edgept")
        if tune not in path.parents
        and path != taught
        and '__name__ == "__main__"' not in path.read_text("utf-8")
    ]
    assert ROOT / "edgept" / "cli" / "export.py" in files
    found = {path: banned(path, inside_functions=False) for path in files}
    assert [path for path in files if found[path]] == []
