"""What can go wrong: Triton's own errors by code, and the wrapper's errors around the library."""

from __future__ import annotations

from ._types import ErrorCode


class Error(Exception):
    """Base of everything this package raises on purpose."""


class TritonError(Error):
    """A ``TRITONSERVER_Error`` that a call or a response returned. ``code`` and ``message`` are Triton's."""

    code = ErrorCode.UNKNOWN

    def __init__(self, message: str, call: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.call = call

    def __str__(self) -> str:
        where = f"{self.call}: " if self.call else ""
        return f"{where}[{self.code.name}] {self.message}"

    def __reduce__(self) -> tuple[type[TritonError], tuple[str, str]]:
        return type(self), (self.message, self.call)


class UnknownError(TritonError):
    """``TRITONSERVER_ERROR_UNKNOWN``, and any code this version does not know."""


class InternalError(TritonError):
    """``TRITONSERVER_ERROR_INTERNAL``."""

    code = ErrorCode.INTERNAL


class NotFoundError(TritonError):
    """``TRITONSERVER_ERROR_NOT_FOUND``."""

    code = ErrorCode.NOT_FOUND


class InvalidArgError(TritonError):
    """``TRITONSERVER_ERROR_INVALID_ARG``."""

    code = ErrorCode.INVALID_ARG


class UnavailableError(TritonError):
    """``TRITONSERVER_ERROR_UNAVAILABLE``."""

    code = ErrorCode.UNAVAILABLE


class UnsupportedError(TritonError):
    """``TRITONSERVER_ERROR_UNSUPPORTED``."""

    code = ErrorCode.UNSUPPORTED


class AlreadyExistsError(TritonError):
    """``TRITONSERVER_ERROR_ALREADY_EXISTS``."""

    code = ErrorCode.ALREADY_EXISTS


class CancelledError(TritonError):
    """``TRITONSERVER_ERROR_CANCELLED``. Triton gives no text for its own cancellations."""

    code = ErrorCode.CANCELLED


_BY_CODE: dict[int, type[TritonError]] = {
    cls.code: cls
    for cls in (
        UnknownError,
        InternalError,
        NotFoundError,
        InvalidArgError,
        UnavailableError,
        UnsupportedError,
        AlreadyExistsError,
        CancelledError,
    )
}


def triton_error(code: int, message: str, call: str = "") -> TritonError:
    """The exception of the class that belongs to ``code``."""
    return _BY_CODE.get(code, UnknownError)(message, call)


class LibraryError(Error):
    """No usable libtritonserver: none found, not a Triton, wrong architecture or API, or a second one."""


class NoTritonError(LibraryError):
    """Nothing was given, and there is no Triton on this machine."""


class NotATritonError(LibraryError):
    """The path that was given holds no Triton library that this process can load."""


class MissingFunctionError(Error):
    """The loaded library has no such function: it is older than the API version that brought it."""


class ClosedError(Error):
    """The handle was closed, or its ownership was given to Triton."""


class InFlightError(Error):
    """The request is still Triton's: its final response or its release has not come yet."""


class CudaUnavailable(Error):
    """No CUDA driver, or no such device, on this machine."""


class CudaError(Error):
    """A CUDA driver call failed. ``name`` is the driver's, such as ``CUDA_ERROR_OUT_OF_MEMORY``."""

    def __init__(self, call: str, name: str, text: str) -> None:
        super().__init__(call, name, text)
        self.call = call
        self.name = name
        self.text = text

    def __str__(self) -> str:
        return f"{self.call}: {self.name}: {self.text}"
