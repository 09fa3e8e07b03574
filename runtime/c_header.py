"""What runtime/c/edgept.h declares, for ctypes: its structs and its functions."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

__all__ = [
    "ON_TEXT",
    "ON_TOKEN",
    "CBundleOptions",
    "CClassification",
    "CDetection",
    "CDetections",
    "CError",
    "CGenerateOptions",
    "CGeneration",
    "CImage",
    "CLatency",
    "COutputs",
    "CProvider",
    "CSegmentation",
    "CSight",
    "CText",
    "declare",
]


class CError(ctypes.Structure):
    """struct edgept_error."""

    _fields_ = [("reason", ctypes.c_char * 32), ("message", ctypes.c_char * 480)]

    def __str__(self) -> str:
        return f"{self.reason.decode()}: {self.message.decode(errors='replace')}"


class CLatency(ctypes.Structure):
    """struct edgept_latency."""

    _fields_ = [
        *(
            (f"{name}_ms", c_double)
            for name in ("tokenize", "swap", "prefill", "ttft", "tpot", "total")
        ),
        *((name, c_size_t) for name in ("virtual_tokens", "input_tokens", "new_tokens")),
    ]


ON_TOKEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
ON_TEXT = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p)


class CGenerateOptions(ctypes.Structure):
    """struct edgept_generate_options."""

    _fields_ = [
        ("max_new_tokens", c_size_t),
        ("temperature", c_double),
        ("top_k", c_size_t),
        ("top_p", c_double),
        ("seed", ctypes.c_uint64),
        ("repetition_penalty", c_double),
        ("stop_ids", POINTER(c_int64)),
        ("stop_count", c_size_t),
        ("stop_strings", POINTER(c_char_p)),
        ("stop_string_count", c_size_t),
        ("on_token", ON_TOKEN),
        ("on_text", ON_TEXT),
        ("user", c_void_p),
    ]


class CGeneration(ctypes.Structure):
    """struct edgept_generation."""

    _fields_ = [
        ("ids", POINTER(c_int64)),
        ("count", c_size_t),
        ("text", c_char_p),
        ("finish", c_int),
        ("latency", CLatency),
    ]


class CProvider(ctypes.Structure):
    """struct edgept_provider."""

    _fields_ = [
        ("name", c_char_p),
        ("keys", POINTER(c_char_p)),
        ("values", POINTER(c_char_p)),
        ("option_count", c_size_t),
    ]


class CBundleOptions(ctypes.Structure):
    """struct edgept_bundle_options."""

    _fields_ = [
        ("threads", c_int),
        ("max_length", c_size_t),
        ("providers", POINTER(CProvider)),
        ("provider_count", c_size_t),
        ("check_hashes", c_int),
        ("sha256", c_char_p),
        ("session_bytes", c_size_t),
    ]


class CText(ctypes.Structure):
    """struct edgept_text."""

    _fields_ = [("ids", POINTER(c_int64)), ("types", POINTER(c_int64)), ("count", c_size_t)]


class COutputs(ctypes.Structure):
    """struct edgept_outputs."""

    _fields_ = [
        ("values", POINTER(c_float)),
        ("rows", c_size_t),
        ("width", c_size_t),
        ("latency", CLatency),
    ]


class CClassification(ctypes.Structure):
    """struct edgept_classification."""

    _fields_ = [
        ("best", c_size_t),
        ("label", c_char_p),
        ("logits", POINTER(c_float)),
        ("probabilities", POINTER(c_double)),
        ("classes", c_size_t),
        ("latency", CLatency),
    ]


class CImage(ctypes.Structure):
    """struct edgept_image."""

    _fields_ = [
        *(
            (name, c_size_t)
            for name in ("height", "width", "patch_size", "rows", "columns", "layers")
        ),
        ("patches_detect", c_int),
    ]


class CSight(ctypes.Structure):
    """struct edgept_sight."""

    _fields_ = [
        ("task", c_int),
        ("prompt", c_void_p),
        *((name, c_size_t) for name in ("positions", "first", "count", "classes", "feature_width")),
        *((name, POINTER(c_float)) for name in ("logits", "boxes", "features")),
        ("latency", CLatency),
    ]


class CSegmentation(ctypes.Structure):
    """struct edgept_segmentation."""

    _fields_ = [("classes", POINTER(ctypes.c_uint32)), ("rows", c_size_t), ("columns", c_size_t)]


class CDetection(ctypes.Structure):
    """struct edgept_detection."""

    _fields_ = [
        ("label", c_char_p),
        ("index", c_size_t),
        ("score", c_double),
        ("box", c_double * 4),
    ]


class CDetections(ctypes.Structure):
    """struct edgept_detections."""

    _fields_ = [("found", POINTER(CDetection)), ("count", c_size_t)]


# Handles are void pointers here; what creates one takes the address of it.
_OUT, _IDS, _ERROR = POINTER(c_void_p), POINTER(c_int64), POINTER(CError)
_REQUEST = (c_void_p, c_void_p, _IDS)  # session, prompt, ids
_READING = (*_REQUEST, _IDS, c_size_t)  # types, count
_STATUS = {
    "prompt_file_read": (c_char_p, c_size_t, _OUT),
    "prompt_file_parse": (c_char_p, c_size_t, c_size_t, _OUT),
    "bundle_open": (c_char_p, POINTER(CBundleOptions), _OUT),
    "prompt_load": (c_void_p, c_char_p, _OUT),
    "prompt_bind": (c_void_p, c_void_p, _OUT),
    "session_create": (c_void_p, _OUT),
    "session_generate": (
        *(*_REQUEST, c_size_t),
        *(POINTER(CGenerateOptions), POINTER(CGeneration)),
    ),
    "session_prefill": (*_REQUEST, c_size_t, POINTER(POINTER(c_float))),
    "session_step": (c_void_p, c_int64, POINTER(POINTER(c_float))),
    "session_encode": (c_void_p, c_char_p, c_char_p, c_int, POINTER(CText)),
    "session_decode": (c_void_p, _IDS, c_size_t, POINTER(c_char_p)),
    "session_ask": (
        *(c_void_p, c_void_p, c_char_p),
        *(POINTER(CGenerateOptions), POINTER(CGeneration)),
    ),
    "session_outputs": (*_READING, POINTER(COutputs)),
    "session_classify": (*_READING, POINTER(CClassification)),
    "session_embed": (*_READING, POINTER(COutputs)),
    "session_see": (c_void_p, c_void_p, POINTER(c_float), c_int, POINTER(CSight)),
    "sight_classify": (c_void_p, POINTER(CSight), POINTER(CClassification)),
    "sight_segment": (c_void_p, POINTER(CSight), POINTER(CSegmentation)),
    "sight_detect": (c_void_p, POINTER(CSight), c_double, POINTER(CDetections)),
}
_OTHERS: dict[str, tuple[Any, ...]] = {  # the result's type, then the arguments'
    "version": (c_char_p,),
    "prompt_file_metadata": (c_char_p, c_void_p, c_char_p),
    "prompt_file_tensor": (
        *(POINTER(c_float), c_void_p, c_char_p),
        *(POINTER(c_size_t), POINTER(c_size_t)),
    ),
    "prompt_file_label_count": (c_size_t, c_void_p),
    "prompt_file_label": (c_char_p, c_void_p, c_size_t),
    "prompt_file_free": (None, c_void_p),
    "bundle_free": (None, c_void_p),
    "bundle_task": (c_char_p, c_void_p),
    "bundle_fingerprint": (c_char_p, c_void_p),
    "bundle_vocab_size": (c_size_t, c_void_p),
    "bundle_hidden_size": (c_size_t, c_void_p),
    "bundle_max_length": (c_size_t, c_void_p),
    "bundle_load_ms": (c_double, c_void_p),
    "bundle_image": (POINTER(CImage), c_void_p),
    "bundle_label": (c_char_p, c_void_p, c_void_p, c_size_t),
    "prompt_free": (None, c_void_p),
    "prompt_name": (c_char_p, c_void_p),
    "prompt_task": (c_char_p, c_void_p),
    "prompt_virtual_tokens": (c_size_t, c_void_p),
    "prompt_bytes": (c_size_t, c_void_p),
    "prompt_load_ms": (c_double, c_void_p),
    "session_free": (None, c_void_p),
    "session_cancel": (None, c_void_p),
}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the types of all functions."""
    for name, arguments in _STATUS.items():
        function = getattr(library, f"edgept_{name}")
        function.restype, function.argtypes = c_int, (*arguments, _ERROR)
    for name, (result, *others) in _OTHERS.items():
        function = getattr(library, f"edgept_{name}")
        function.restype, function.argtypes = result, others
    return library
