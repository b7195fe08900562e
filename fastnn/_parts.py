"""Functions for compiled code alone: translated as far as their callers need it, which make machine code of them.

Numba gives each jitted function two wrappers, for Python and for C, optimises it and makes machine code of it; then it
links the intermediate code into every caller, where it is optimised once more. Of the eighty functions behind a first
``fit`` Python calls three: doing so for the others too takes about half as long as everything else in that call.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering


class _Library(JITCodeLibrary):
    """Intermediate code that is ready once its own callees are linked in."""

    def _optimize_final_module(self) -> None:
        """Left to the callers, which see what the arguments are."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "lowering_of_a_part"

    def run_pass(self, state: Any) -> bool:
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        super().run_pass(state)
        # Callers find the library by this key, which elsewhere is the wrapper for Python.
        key = object()
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class _Compiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_Lowering if p is NativeLowering else p, about) for p, about in passes.passes]
        passes.finalize()
        return [passes]


class Part(CPUDispatcher):
    """A function that compiled code calls, as ``numba.njit`` makes it for Python too.

    Parameters
    ----------
    py_func : function
        What is compiled for each set of argument types it is called with.
    locals : None
        Numba's types of variables, which no part states.
    targetoptions : dict
        Of ``numba.njit``.
    """

    def __init__(self, py_func: Any, locals: Any = None, targetoptions: Any = None):
        super().__init__(py_func, locals, targetoptions, _Compiler)

    def add_overload(self, cres: Any) -> None:
        self.overloads[tuple(cres.signature.args)] = cres

    def _compile_for_args(self, *args: Any, **kws: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} can be called by compiled code only: use it under numba.njit")
