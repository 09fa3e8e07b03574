"""The exported graph in an onnxruntime session, run with every tensor in a buffer of ours.

One way of running serves prefill and decoding: named feeds, overridable initializers among them
(which IO binding refuses), and outputs that are written where the caller says, so that a graph
which may extend its KV buffer in place does.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgept.errors import EdgeptError, InvalidFileError, UsageError
from edgept.manifest import Manifest
from edgept.runtime.requirements import import_onnxruntime

__all__ = ["Graph"]

_MAX_THREADS = 64
# On the CPU the operators that these make are slower than what they replace: one normalises number by number
# (2.5 times the time of the sums and the normalisation apart), the other takes 1.2 times.
_SLOWER_FUSED: tuple[str, ...] = ("SkipLayerNormFusion", "BiasGeluFusion")
# Outputs that are read here, so that they are wanted in this process's memory.
_READ = ("logits", "last_hidden_state", "boxes", "features")


class Graph:
    """A loaded session. Threads may run it at once: onnxruntime's Run keeps no state.

    Attributes:
        providers: execution providers in use, best first.
        threads: threads that compute one operator.
        float_type: numpy type of the graph's float inputs.
        output_name: of what a request is for: logits, or an embedding model's last_hidden_state.
        output_size: its width at a position, or for a text; 0 where the request's head decides it.
        output_type: its numpy type.
        input_names: that the graph takes.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Create the session.

        Args:
            path: of the .onnx file, already checked.
            manifest: of its bundle.
            threads: None takes every core that this process may use.
            providers: None takes those that the bundle was made for.

        Raises:
            MissingDependencyError: no onnxruntime, or one that is too old.
            UsageError: the installed onnxruntime lacks a provider, or threads is out of range.
            InvalidFileError: the graph is not the one that the manifest describes.
            EdgeptError: onnxruntime refuses the graph.
        """
        self._ort = import_onnxruntime(manifest.min_onnxruntime)
        from onnxruntime.capi import onnxruntime_pybind11_state as binding

        self._binding: Any = binding
        cores = len(os.sched_getaffinity(0))
        self.threads = cores if threads is None else threads
        # far more than there are cores only wait for each other: a few thousand do so for minutes
        most = max(cores, _MAX_THREADS)
        if type(self.threads) is not int or not 1 <= self.threads <= most:
            raise UsageError(
                f"threads is {threads}, expected 1 to {most}, or None for every core ({cores} here)."
            )
        if isinstance(providers, str):
            providers = [providers]
        wanted = list(providers or manifest.providers)
        available = self._ort.get_available_providers()
        lacking = [name for name in wanted if name not in available]
        if lacking:
            raise UsageError(
                f"this onnxruntime has no {lacking[0]} (it has {', '.join(available)}). Install the "
                "build for this device ('edgept doctor' says which), or choose providers "
                "(--provider CPUExecutionProvider)."
            )
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; it warns of every overridable initializer
        unwanted = []
        if manifest.float_type == "float16":
            # onnxruntime before 1.30 crashes in it on an input whose default is float16
            unwanted.append("FuseFp16InitializerToFp32NodeTransformer")
        if wanted[0] == "CPUExecutionProvider":
            unwanted += _SLOWER_FUSED
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", ";".join(unwanted)
        )
        try:
            self._session = self._ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # onnxruntime's error types have no public common root
            raise EdgeptError(
                f"onnxruntime {self._ort.__version__} could not load {path}: {error}"
            ) from error
        _check_metadata(path, self._session.get_modelmeta().custom_metadata_map, manifest)
        self.providers: list[str] = self._session.get_providers()
        if self.providers[0] != wanted[0]:
            raise EdgeptError(
                f"onnxruntime lists {wanted[0]} but could not start it, and would run on "
                f"{self.providers[0]}. 'edgept doctor' says what it lacks; to run there all the same, "
                f"choose it (--provider {self.providers[0]})."
            )
        self.float_type = np.dtype(manifest.float_type)
        output = _find_output(path, self._session.get_outputs())
        self.output_name: str = output.name
        last = output.shape[-1]
        self.output_size = last if isinstance(last, int) else 0
        self.output_type = np.dtype(np.float16 if "float16" in output.type else np.float32)
        self.input_names = frozenset(
            item.name
            for item in (
                *self._session.get_inputs(),
                *self._session.get_overridable_initializers(),
            )
        )
        self._device = "cuda" if self.providers[0].startswith(("CUDA", "Tensorrt")) else "cpu"
        self._run_options = binding.RunOptions()
        self._run_options.log_severity_level = 4  # fatal; an error is raised, and needs no log line
        memory = binding.OrtDevice.default_memory()
        self._host = binding.OrtDevice(binding.OrtDevice.cpu(), memory, 0)
        self._resident = self._host
        if not self.on_host:
            self._resident = binding.OrtDevice(binding.OrtDevice.cuda(), memory, 0)

    @property
    def on_host(self) -> bool:
        """Whether the graph's memory is this process's own, so that numpy arrays are shared."""
        return self._device == "cpu"

    def value(self, array: npt.NDArray[Any], *, resident: bool = False) -> Any:
        """A tensor over an array's memory; with resident, on the graph's own device."""
        if resident and not self.on_host:
            return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
        # what ortvalue_from_numpy does for host memory, without looking for the device each time
        value = self._binding.OrtValue.ortvalue_from_numpy(array, self._host)
        return self._ort.OrtValue(value, array)

    def empty(self, shape: Sequence[int]) -> Any:
        """An uninitialised float tensor on the graph's device."""
        return self._ort.OrtValue.ortvalue_from_shape_and_type(
            list(shape), self.float_type, self._device, 0
        )

    def run(self, feeds: Mapping[str, Any], fetches: Mapping[str, Any]) -> None:
        """Run once. Outputs are written into the tensors of fetches.

        Args:
            feeds: input name to OrtValue; inputs with a default may be left out.
            fetches: output name to OrtValue of the very shape that will come out.

        Raises:
            EdgeptError: onnxruntime's own error, with what it says.
        """
        inputs, outputs = self._binding.OrtValueVector(), self._binding.OrtValueVector()
        for value in feeds.values():
            inputs.push_back(value._ortvalue)
        for value in fetches.values():
            outputs.push_back(value._ortvalue)
        try:
            self._session.run_with_ortvaluevector(
                self._run_options,
                list(feeds),
                inputs,
                list(fetches),
                outputs,
                [self._host if name in _READ else self._resident for name in fetches],
            )
        except Exception as error:  # as above: no public common root
            raise EdgeptError(f"onnxruntime stopped: {error}") from error

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """Bind tensors for many runs; inputs with a default cannot be among them.

        Args:
            inputs: input name to OrtValue, those that every run shares.
            outputs: every output's name to OrtValue.

        Returns:
            onnxruntime's binding, for `run_bound`. It keeps the tensors.
        """
        bound = self._session.io_binding()
        for name, value in inputs.items():
            bound.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            bound.bind_ortvalue_output(name, value)
        return bound

    def run_bound(self, bound: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        """Run once on bound tensors.

        Args:
            bound: what `bind` returned.
            feeds: the inputs that this run has for itself.

        Raises:
            EdgeptError: onnxruntime's own error, with what it says.
        """
        try:
            for name, array in feeds.items():
                bound.bind_ortvalue_input(name, self.value(array))
            self._session.run_with_iobinding(bound, self._run_options)
        except Exception as error:  # as above: no public common root
            raise EdgeptError(f"onnxruntime stopped: {error}") from error


def _find_output(path: Path, outputs: Sequence[Any]) -> Any:
    """The output that requests are for, among a graph's; of an encoder-decoder's encoder, the first key."""
    for output in outputs:
        if output.name in (*_READ, "present.0.encoder.key"):
            return output
    names = ", ".join(output.name for output in outputs)
    raise InvalidFileError(
        "manifest-malformed",
        f"{path} gives {names}; a bundle's graph gives logits or last_hidden_state. Export again.",
    )


def _check_metadata(path: Path, found: Mapping[str, str], manifest: Manifest) -> None:
    """Compare a graph's own description with the manifest: another vocabulary would run, and be wrong."""
    for key, expected in manifest.to_metadata().items():
        if found.get(key) != expected:
            raise InvalidFileError(
                "manifest-malformed",
                f"{path} says {key} {found.get(key, 'nothing')!r}, the manifest beside it "
                f"{expected!r}. The two are not of one export: copy the bundle again, or export again.",
            )
