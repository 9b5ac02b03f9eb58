"""The compiled operators with the types of their arguments."""

import ctypes

from engine.kernels.cpu_build import load_library

_P, _I, _F, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES = {
    "baton_rms_norm": ([_INT, _P, _P, _P, _P, _I, _I, _F, _INT], None),
    "baton_silu_mul": ([_INT, _P, _P, _I, _I, _INT], None),
    "baton_store_kv": ([_INT, *[_P] * 8, *[_I] * 7, _F, _INT], None),
    "baton_attention": ([_INT, *[_P] * 6, *[_I] * 8, _INT, _P, _INT], _I),
    "baton_pack_weight": ([_P, _P, _I, _I, _INT], None),
    "baton_project": ([_P, _P, _P, _P, _INT, _I, _I, _I, _INT], None),
    "baton_read": ([_P, _I, _INT], _I),
}


def load_operators() -> ctypes.CDLL:
    """Build or find the library and load it. Raises KernelBuildError where that cannot be done."""
    library = load_library()
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
